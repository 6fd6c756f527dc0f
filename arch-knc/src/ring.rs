//! The console: one ring per direction in a region of the card's memory that the host reads and
//! writes. Both sides poll (3120A, its loader's layout, version 1). The card does not trust the
//! host's data: a region that makes no sense is no console.

use core::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering, fence};

use arch_contract::boot::PhysicalRange;
use arch_x64::cpu::model;
use arch_x64::cpu::paging::physical_to_virtual;
use wire::card::{REGION_MAGIC, VERSION, channel, region, ring};

/// Maximum number of channels examined.
const CHANNEL_LIMIT: u32 = 16;
/// Time counter cycles without progress by the host until output is dropped: some seconds. After
/// that, output is dropped without waiting until the host reads again.
const PATIENCE: u64 = 4_000_000_000;
static IS_STUCK: AtomicBool = AtomicBool::new(false);

/// A ring whose descriptor was checked.
struct Ring {
    /// Physical address, 0 if there is no ring.
    at: AtomicU64,
    size: AtomicU32,
}

static INPUT: Ring = Ring::new();
static OUTPUT: Ring = Ring::new();
/// Physical address of the region, 0 if there is none.
static REGION: AtomicU64 = AtomicU64::new(0);

fn word(physical: u64) -> &'static AtomicU32 {
    // SAFETY: the address is aligned and inside the region, which the caller of `init` guarantees
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
        head.store(start.wrapping_add(count as u32), Ordering::Release);
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

/// Looks for the console in a region that is mapped and shared only with the host; returns false if
/// there is none.
pub fn init(there: PhysicalRange) -> bool {
    let header = |offset| word(there.start + offset).load(Ordering::Relaxed);
    let is_region = there.len() >= region::FIRST_CHANNEL + region::CHANNEL_SIZE
        && [header(0), header(4)] == [REGION_MAGIC, VERSION]
        && u64::from(header(region::SIZE)) <= there.len();
    if !is_region {
        return false;
    }
    let channels = (0..u64::from(header(region::CHANNELS).min(CHANNEL_LIMIT)))
        .map(|number| there.start + region::FIRST_CHANNEL + number * region::CHANNEL_SIZE)
        .take_while(|at| at + region::CHANNEL_SIZE <= there.end);
    let console =
        channels.into_iter().find(|&at| word(at + channel::KIND).load(Ordering::Relaxed) == channel::KIND_CONSOLE);
    let rings = console.and_then(|at| Some((find(there, at + channel::TO_CARD)?, find(there, at + channel::TO_HOST)?)));
    if let Some((input, output)) = rings {
        INPUT.set(input);
        OUTPUT.set(output);
        REGION.store(there.start, Ordering::Relaxed);
        set_up(true);
    }
    rings.is_some()
}

/// Tells the host whether the card runs.
pub fn set_up(is_up: bool) {
    let at = REGION.load(Ordering::Relaxed);
    if at != 0 {
        word(at + region::CARD_FLAGS).store(if is_up { region::CARD_IS_UP } else { 0 }, Ordering::Release);
    }
}

/// Sends as many bytes as fit; returns their number.
pub fn try_send(bytes: &[u8]) -> usize {
    OUTPUT.send(bytes)
}

/// Sends bytes and waits for the host to take them; drops the rest if the host takes none for some
/// seconds.
pub fn send(mut bytes: &[u8]) {
    let mut since = model::cycles();
    while !bytes.is_empty() {
        let sent = OUTPUT.send(bytes);
        bytes = &bytes[sent..];
        if sent > 0 {
            IS_STUCK.store(false, Ordering::Relaxed);
            since = model::cycles();
        } else if IS_STUCK.load(Ordering::Relaxed) || model::cycles().wrapping_sub(since) > PATIENCE {
            IS_STUCK.store(true, Ordering::Relaxed);
            return;
        }
    }
}

/// Waits until the host has taken all output, for some seconds at most.
pub fn wait_until_taken() {
    let since = model::cycles();
    let Some((at, _)) = OUTPUT.get() else { return };
    while word(at + ring::HEAD).load(Ordering::Relaxed) != word(at + ring::TAIL).load(Ordering::Acquire)
        && !IS_STUCK.load(Ordering::Relaxed)
        && model::cycles().wrapping_sub(since) <= PATIENCE
    {}
}

/// Takes a byte sent by the host, if there is one.
pub fn receive() -> Option<u8> {
    INPUT.receive()
}
