//! The kernel's side of the rings of bytes to its host; see [`wire::rings`]. The host's data is not
//! trusted: a region that makes no sense has no channels.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use arch_contract::boot::PhysicalRange;
use wire::rings::{REGION_MAGIC, VERSION, channel, region, ring};

use crate::cpu::model;
use crate::cpu::paging::physical_to_virtual;

/// Maximum number of channels examined.
const CHANNEL_LIMIT: u32 = 16;
/// Time counter cycles without progress by the host until output is dropped: some seconds. After
/// that, output is dropped without waiting until the host reads again.
const PATIENCE: u64 = 4_000_000_000;

/// A ring whose descriptor was checked.
struct Ring {
    /// Physical address, 0 if there is no ring.
    at: AtomicU64,
    size: AtomicU32,
}

fn word(physical: u64) -> &'static AtomicU32 {
    // SAFETY: the address is aligned and inside the region, which the caller of `open` guarantees
    // to be mapped memory shared only with the host; its words are only accessed as atomics.
    unsafe { &*physical_to_virtual(physical).cast() }
}

fn byte(physical: u64) -> *mut u8 {
    physical_to_virtual(physical)
}

impl Ring {
    const fn new() -> Self {
        Self { at: AtomicU64::new(0), size: AtomicU32::new(0) }
    }

    fn set(&self, (at, size): (u64, u32)) {
        self.size.store(size, Ordering::Relaxed);
        self.at.store(at, Ordering::Release);
    }

    /// Physical address and size of the ring, if there is one.
    fn get(&self) -> Option<(u64, u32)> {
        let at = self.at.load(Ordering::Acquire);
        (at != 0).then(|| (at, self.size.load(Ordering::Relaxed)))
    }

    /// Writes as many bytes as fit; returns their number. An absent ring accepts everything.
    fn send(&self, bytes: &[u8]) -> usize {
        let Some((at, size)) = self.get() else { return bytes.len() };
        let (head, tail) = (word(at + ring::HEAD), word(at + ring::TAIL));
        let start = head.load(Ordering::Relaxed);
        let used = start.wrapping_sub(tail.load(Ordering::Acquire));
        let count = bytes.len().min(size.saturating_sub(used) as usize);
        for (index, &value) in bytes[..count].iter().enumerate() {
            let offset = start.wrapping_add(index as u32) & (size - 1);
            // SAFETY: the offset is masked to the ring's data, and the host reads only what lies
            // below `head`.
            unsafe { byte(at + ring::DATA + u64::from(offset)).write_volatile(value) };
        }
        fence(Ordering::SeqCst);
        head.store(start.wrapping_add(count as u32), Ordering::SeqCst);
        count
    }

    /// Takes a byte, if there is one.
    fn receive(&self) -> Option<u8> {
        let (at, size) = self.get()?;
        let (head, tail) = (word(at + ring::HEAD), word(at + ring::TAIL));
        let next = tail.load(Ordering::Relaxed);
        match head.load(Ordering::Acquire) {
            end if end == next => return None,
            // The host's index makes no sense: restart from it.
            end if end.wrapping_sub(next) > size => {
                tail.store(end, Ordering::Release);
                return None;
            }
            _ => {}
        }
        // SAFETY: the offset is masked to the ring's data, whatever the host's index is.
        let value = unsafe { byte(at + ring::DATA + u64::from(next & (size - 1))).read_volatile() };
        fence(Ordering::SeqCst);
        tail.store(next.wrapping_add(1), Ordering::Release);
        Some(value)
    }
}

/// Returns physical address and size of the ring that a descriptor names, if it lies in the region
/// and is a ring.
fn find(there: PhysicalRange, descriptor: u64) -> Option<(u64, u32)> {
    let (offset, size) = (word(descriptor).load(Ordering::Relaxed), word(descriptor + 4).load(Ordering::Relaxed));
    let at = there.start + u64::from(offset);
    let fits = offset.is_multiple_of(64) && size.is_power_of_two() && at + ring::DATA + u64::from(size) <= there.end;
    let is_ring = || [at, at + ring::SIZE].map(|place| word(place).load(Ordering::Relaxed)) == [ring::MAGIC, size];
    (fits && is_ring()).then_some((at, size))
}

/// Returns whether there is a region, in mapped memory that is shared only with the host.
pub fn is_region(there: PhysicalRange) -> bool {
    let header = |offset| word(there.start + offset).load(Ordering::Relaxed);
    there.len() >= region::FIRST_CHANNEL + region::CHANNEL_SIZE
        && [header(0), header(4)] == [REGION_MAGIC, VERSION]
        && u64::from(header(region::SIZE)) <= there.len()
}

/// A channel: a ring to the kernel and one to the host.
pub struct Channel {
    input: Ring,
    output: Ring,
    /// Physical address of the region, 0 if there is none.
    region: AtomicU64,
    /// Physical address of the channel's descriptor, 0 if there is none.
    descriptor: AtomicU64,
    is_stuck: AtomicBool,
    /// Tells the host that there are bytes for it.
    tell: fn(),
}

impl Channel {
    /// Creates a channel without rings, to a host that polls.
    pub const fn new() -> Self {
        Self::telling(|| {})
    }

    /// Creates a channel without rings, to a host that can be told of bytes.
    pub const fn telling(tell: fn()) -> Self {
        Self {
            input: Ring::new(),
            output: Ring::new(),
            region: AtomicU64::new(0),
            descriptor: AtomicU64::new(0),
            is_stuck: AtomicBool::new(false),
            tell,
        }
    }

    /// Looks for a channel of a kind in a region that is mapped and shared only with the host;
    /// returns false if there is none.
    pub fn open(&self, there: PhysicalRange, kind: u32) -> bool {
        if !is_region(there) {
            return false;
        }
        let count = word(there.start + region::CHANNELS).load(Ordering::Relaxed).min(CHANNEL_LIMIT);
        let channels = (0..u64::from(count))
            .map(|number| there.start + region::FIRST_CHANNEL + number * region::CHANNEL_SIZE)
            .take_while(|at| at + region::CHANNEL_SIZE <= there.end);
        let found = channels.into_iter().find(|&at| word(at + channel::KIND).load(Ordering::Relaxed) == kind);
        let rings =
            found.and_then(|at| Some((at, find(there, at + channel::TO_KERNEL)?, find(there, at + channel::TO_HOST)?)));
        if let Some((at, input, output)) = rings {
            self.input.set(input);
            self.output.set(output);
            self.region.store(there.start, Ordering::Relaxed);
            self.descriptor.store(at, Ordering::Relaxed);
        }
        rings.is_some()
    }

    /// A word of the channel's descriptor.
    fn descriptor_word(&self, offset: u64) -> Option<&'static AtomicU32> {
        let at = self.descriptor.load(Ordering::Relaxed);
        (at != 0).then(|| word(at + offset))
    }

    /// Asks the host for interrupts when it has sent bytes, or no longer, while they are looked for
    /// all the time.
    pub fn interrupt_for_input(&self, wanted: bool) {
        let what = if wanted { channel::INTERRUPTED } else { channel::LOOKING };
        let word = self.descriptor_word(channel::KERNEL_WAITS);
        word.into_iter().for_each(|waits| waits.store(what, Ordering::SeqCst));
    }

    /// Tells the host of bytes for it, if it wants that.
    fn tell_host(&self) {
        let waits = self.descriptor_word(channel::HOST_WAITS).is_some_and(|waits| {
            waits.load(Ordering::SeqCst) != 0 && {
                waits.store(0, Ordering::SeqCst);
                true
            }
        });
        if waits {
            (self.tell)();
        }
    }

    /// Tells the host whether the kernel runs.
    pub fn set_up(&self, is_up: bool) {
        let at = self.region.load(Ordering::Relaxed);
        if at != 0 {
            let flags = if is_up { region::KERNEL_IS_UP } else { 0 };
            word(at + region::KERNEL_FLAGS).store(flags, Ordering::Release);
        }
    }

    /// Sends as many bytes as fit; returns their number.
    pub fn try_send(&self, bytes: &[u8]) -> usize {
        let sent = self.output.send(bytes);
        self.tell_host();
        sent
    }

    /// Sends bytes and waits for the host to take them; drops the rest if the host takes none for
    /// some seconds.
    pub fn send(&self, mut bytes: &[u8]) {
        let mut since = model::cycles();
        while !bytes.is_empty() {
            let sent = self.try_send(bytes);
            bytes = &bytes[sent..];
            if sent > 0 {
                self.is_stuck.store(false, Ordering::Relaxed);
                since = model::cycles();
            } else if self.is_stuck.load(Ordering::Relaxed) || model::cycles().wrapping_sub(since) > PATIENCE {
                self.is_stuck.store(true, Ordering::Relaxed);
                return;
            }
        }
    }

    /// Waits until the host has taken all output, for some seconds at most.
    pub fn wait_until_taken(&self) {
        let since = model::cycles();
        let Some((at, _)) = self.output.get() else { return };
        while word(at + ring::HEAD).load(Ordering::Relaxed) != word(at + ring::TAIL).load(Ordering::Acquire)
            && !self.is_stuck.load(Ordering::Relaxed)
            && model::cycles().wrapping_sub(since) <= PATIENCE
        {}
    }

    /// Takes a byte sent by the host, if there is one.
    pub fn receive(&self) -> Option<u8> {
        self.input.receive()
    }
}
