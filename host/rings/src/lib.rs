//! The host's side of the rings in a kernel's memory; see [`wire::rings`]. The kernel's indices are
//! not trusted.
#![forbid(unsafe_code)]

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::thread;
use std::time::Duration;

use wire::rings::ring::{self, DATA, HEAD, TAIL};
use wire::rings::{REGION_MAGIC, VERSION, channel, region};

/// Size of the region in bytes.
pub const REGION_SIZE: u64 = 1 << 20;
/// Interval at which a full ring is polled.
const INTERVAL: Duration = Duration::from_millis(1);
/// Distance from one channel's rings to the next one's, the offsets of the two rings from there,
/// and their data sizes, in bytes.
const STEP: u32 = 0x20000;
const TO_KERNEL: u32 = 0x1000;
const TO_HOST: u32 = 0x4000;
const TO_KERNEL_SIZE: u32 = 4 << 10;
const TO_HOST_SIZE: u32 = 64 << 10;

/// Prepares a region at an offset in a file, with channels of these kinds
/// ([`wire::rings::channel`]), seven at most, whose rings are empty.
///
/// # Errors
/// Fails if the file cannot be written.
pub fn prepare(memory: &File, region: u64, kinds: &[u32]) -> io::Result<()> {
    let put = |at: u64, words: &[u32]| {
        let bytes: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
        memory.write_all_at(&bytes, region + at)
    };
    put(0, &[REGION_MAGIC, VERSION, REGION_SIZE as u32, kinds.len() as u32])?;
    put(region::KERNEL_FLAGS, &[0])?;
    for (number, &kind) in kinds.iter().enumerate() {
        let rings = number as u32 * STEP;
        let mut descriptor = [0; region::CHANNEL_SIZE as usize / 4];
        descriptor[(channel::KIND / 4) as usize] = kind;
        let places = [(channel::TO_KERNEL, TO_KERNEL, TO_KERNEL_SIZE), (channel::TO_HOST, TO_HOST, TO_HOST_SIZE)];
        for (word, at, size) in places {
            let word = (word / 4) as usize;
            (descriptor[word], descriptor[word + 1]) = (rings + at, size);
            let mut header = [0; DATA as usize / 4];
            (header[0], header[1]) = (ring::MAGIC, size);
            put((rings + at).into(), &header)?;
        }
        put(region::FIRST_CHANNEL + number as u64 * region::CHANNEL_SIZE, &descriptor)?;
    }
    Ok(())
}

/// The rings of a channel to a kernel whose memory, or the part with the region, is a file.
pub struct Rings {
    memory: File,
    region: u64,
    /// Offset of the channel's descriptor in the region.
    descriptor: u64,
    /// Offset in the region that the rings' offsets count from.
    rings: u64,
}

impl Rings {
    /// Returns the rings of the channel with this number, in the region at offset `region` in the
    /// file.
    pub fn new(memory: File, region: u64, number: u32) -> Self {
        let descriptor = region::FIRST_CHANNEL + u64::from(number) * region::CHANNEL_SIZE;
        Self { memory, region, descriptor, rings: u64::from(number * STEP) }
    }

    /// Asks the kernel to tell of bytes to the host, once. Bytes that are there already count as
    /// told: look for them afterwards.
    pub fn ask_for_word(&self) -> io::Result<()> {
        self.set_word(self.descriptor + channel::HOST_WAITS, 1)
    }

    /// Whether the kernel wants to be interrupted for the bytes that wait for it.
    pub fn wants_interrupt(&self) -> io::Result<bool> {
        let at = self.rings + u64::from(TO_KERNEL);
        let is_empty = self.word(at + HEAD)? == self.word(at + TAIL)?;
        Ok(!is_empty && self.word(self.descriptor + channel::KERNEL_WAITS)? == channel::INTERRUPTED)
    }

    fn word(&self, offset: u64) -> io::Result<u32> {
        let mut bytes = [0; 4];
        self.memory.read_exact_at(&mut bytes, self.region + offset)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn set_word(&self, offset: u64, value: u32) -> io::Result<()> {
        self.memory.write_all_at(&value.to_le_bytes(), self.region + offset)
    }

    /// Returns true while the kernel's flag says that it runs.
    pub fn is_up(&self) -> io::Result<bool> {
        Ok(self.word(region::KERNEL_FLAGS)? & region::KERNEL_IS_UP != 0)
    }

    /// Whether the kernel looks for bytes all the time.
    pub fn is_looking(&self) -> io::Result<bool> {
        Ok(self.word(self.descriptor + channel::KERNEL_WAITS)? == channel::LOOKING)
    }

    /// Takes the bytes that the kernel has sent.
    pub fn receive(&self) -> io::Result<Vec<u8>> {
        let at = self.rings + u64::from(TO_HOST);
        let (head, tail) = (self.word(at + HEAD)?, self.word(at + TAIL)?);
        let count = head.wrapping_sub(tail).min(TO_HOST_SIZE);
        let mut bytes = vec![0; count as usize];
        let start = tail & (TO_HOST_SIZE - 1);
        let first = (TO_HOST_SIZE - start).min(count) as usize;
        let (before, after) = bytes.split_at_mut(first);
        self.memory.read_exact_at(before, self.region + at + DATA + u64::from(start))?;
        self.memory.read_exact_at(after, self.region + at + DATA)?;
        self.set_word(at + TAIL, head)?;
        Ok(bytes)
    }

    /// Sends as many bytes as fit into the ring and returns their number.
    pub fn send(&self, bytes: &[u8]) -> io::Result<usize> {
        let at = self.rings + u64::from(TO_KERNEL);
        let (head, tail) = (self.word(at + HEAD)?, self.word(at + TAIL)?);
        let room = TO_KERNEL_SIZE.saturating_sub(head.wrapping_sub(tail)) as usize;
        let count = bytes.len().min(room);
        for (index, &byte) in bytes[..count].iter().enumerate() {
            let offset = head.wrapping_add(index as u32) & (TO_KERNEL_SIZE - 1);
            self.memory.write_all_at(&[byte], self.region + at + DATA + u64::from(offset))?;
        }
        self.set_word(at + HEAD, head.wrapping_add(count as u32))?;
        Ok(count)
    }
}

impl io::Write for Rings {
    /// Waits while the ring to the kernel is full.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.send(bytes)? {
                0 if !bytes.is_empty() => thread::sleep(INTERVAL),
                count => return Ok(count),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, OpenOptions};

    use super::*;

    #[test]
    fn what_goes_in_at_one_end_comes_out_at_the_other() {
        let path = std::env::temp_dir().join(format!("aero-rings-{}", std::process::id()));
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path).unwrap();
        fs::remove_file(&path).unwrap();
        file.set_len(REGION_SIZE).unwrap();
        let kinds = [channel::KIND_CONSOLE, channel::KIND_TELEMETRY];
        prepare(&file, 0, &kinds).unwrap();
        let console = Rings::new(file.try_clone().unwrap(), 0, 0);
        let rings = Rings::new(file, 0, 1);
        assert_eq!(rings.send(&[7; 5000]).unwrap(), TO_KERNEL_SIZE as usize);
        assert_eq!(rings.send(b"x").unwrap(), 0, "the ring is full");
        // Plays the kernel's part, with bytes that wrap around the ring's end.
        let at = u64::from(STEP + TO_HOST);
        rings.set_word(at + TAIL, TO_HOST_SIZE - 2).unwrap();
        rings.set_word(at + HEAD, TO_HOST_SIZE + 2).unwrap();
        rings.memory.write_all_at(b"ab", at + DATA + u64::from(TO_HOST_SIZE) - 2).unwrap();
        rings.memory.write_all_at(b"cd", at + DATA).unwrap();
        assert_eq!(rings.receive().unwrap(), b"abcd");
        assert!(rings.receive().unwrap().is_empty() && !rings.is_up().unwrap());
        assert!(console.receive().unwrap().is_empty() && console.send(b"x").unwrap() == 1, "it has its own rings");
        assert!(!rings.wants_interrupt().unwrap());
        rings.set_word(rings.descriptor + channel::KERNEL_WAITS, channel::INTERRUPTED).unwrap();
        assert!(rings.wants_interrupt().unwrap() && !console.wants_interrupt().unwrap());
    }
}
