//! From a loader's memory list, with any holes and overlaps, to memory that the kernel may use.

use arch_contract::PAGE_SIZE;
use arch_contract::boot::{MAX_REGIONS, PhysicalRange};
use arrayvec::ArrayVec;

use crate::Notices;

/// Memory above this address is ignored: 64 TiB, the design's limit.
pub const HIGHEST_ADDRESS: u64 = 1 << 46;

/// An entry of a loader's list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawEntry {
    /// Address of the first byte.
    pub start: u64,
    /// Length in bytes.
    pub length: u64,
    /// True if the kernel may use the memory.
    pub usable: bool,
}

/// A list of sorted, disjoint ranges.
pub type RangeList = ArrayVec<PhysicalRange, MAX_REGIONS>;

/// Returns the usable memory of a list: sorted, disjoint, page-aligned. Where a usable entry
/// overlaps another one, the memory is not usable. Entries that wrap around or exceed 64 TiB are
/// cut.
pub fn usable(entries: impl Iterator<Item = RawEntry> + Clone, notices: &mut Notices) -> RangeList {
    let mut list = RangeList::new();
    for entry in entries.clone().filter(|entry| entry.usable) {
        let end = entry.start.checked_add(entry.length).unwrap_or_else(|| {
            notices.add("memory map: an entry wraps around the address space; cut, start", entry.start);
            u64::MAX
        });
        let range = PhysicalRange {
            start: entry.start.min(HIGHEST_ADDRESS).next_multiple_of(PAGE_SIZE as u64),
            end: align_down(end.min(HIGHEST_ADDRESS)),
        };
        insert(&mut list, range, notices);
    }
    for entry in entries.filter(|entry| !entry.usable) {
        remove(&mut list, PhysicalRange { start: entry.start, end: entry.start.saturating_add(entry.length) }, notices);
    }
    list
}

/// Adds a range, merging it with the ranges it touches.
fn insert(list: &mut RangeList, mut range: PhysicalRange, notices: &mut Notices) {
    if range.is_empty() {
        return;
    }
    list.retain(|other| {
        let touches = other.start <= range.end && range.start <= other.end;
        if touches {
            range.start = range.start.min(other.start);
            range.end = range.end.max(other.end);
        }
        !touches
    });
    let position = list.partition_point(|other| other.start < range.start);
    if list.try_insert(position, range).is_err() {
        notices.add("memory map: too many ranges; ignored one at", range.start);
    }
}

/// Removes a range, rounded outwards to pages.
pub fn remove(list: &mut RangeList, range: PhysicalRange, notices: &mut Notices) {
    if range.is_empty() {
        return;
    }
    let start = align_down(range.start);
    let end = range.end.checked_next_multiple_of(PAGE_SIZE as u64).unwrap_or(u64::MAX);
    let mut index = 0;
    while let Some(&whole) = list.get(index) {
        let before = PhysicalRange { start: whole.start, end: whole.end.min(start) };
        let after = PhysicalRange { start: whole.start.max(end), end: whole.end };
        if whole.end <= start || end <= whole.start {
            index += 1;
            continue;
        }
        match (before.is_empty(), after.is_empty()) {
            (true, true) => {
                list.remove(index);
            }
            (false, true) => {
                list[index] = before;
                index += 1;
            }
            (true, false) => {
                list[index] = after;
                index += 1;
            }
            (false, false) => {
                list[index] = before;
                if list.try_insert(index + 1, after).is_err() {
                    notices.add("memory map: too many ranges; lost the one at", after.start);
                }
                index += 2;
            }
        }
    }
}

fn align_down(address: u64) -> u64 {
    address & !(PAGE_SIZE as u64 - 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(start: u64, length: u64, usable: bool) -> RawEntry {
        RawEntry { start, length, usable }
    }

    #[test]
    fn overlaps_belong_to_the_reservation() {
        let map = [entry(0, 0x10_0000, true), entry(0x9_fc00, 0x400, false), entry(0xf_0000, 0x2_0000, true)];
        let list = usable(map.iter().copied(), &mut Notices::default());
        assert_eq!(
            list.as_slice(),
            [PhysicalRange { start: 0, end: 0x9_f000 }, PhysicalRange { start: 0xa_0000, end: 0x11_0000 }]
        );
    }

    #[test]
    fn an_entry_that_wraps_is_cut_and_noticed() {
        let mut notices = Notices::default();
        let list = usable([entry(0x1000, u64::MAX, true)].into_iter(), &mut notices);
        assert_eq!(list.as_slice(), [PhysicalRange { start: 0x1000, end: HIGHEST_ADDRESS }]);
        assert_eq!(notices.0.len(), 1);
    }

    proptest! {
        #[test]
        fn any_map_gives_sorted_disjoint_pages_that_no_reservation_touches(
            map in prop::collection::vec((0u64..0x40_0000, 0u64..0x10_0000, any::<bool>()), 0..60)
        ) {
            let map: Vec<_> = map.into_iter().map(|(start, length, usable)| entry(start, length, usable)).collect();
            let list = usable(map.iter().copied(), &mut Notices::default());
            for pair in list.windows(2) {
                prop_assert!(pair[0].end < pair[1].start);
            }
            for page in (0..0x60_0000u64).step_by(PAGE_SIZE) {
                let end = page + PAGE_SIZE as u64;
                let reserved = map.iter().any(|e| !e.usable && e.length > 0 && e.start < end && page < e.start + e.length);
                let listed = list.iter().any(|range| range.contains(page));
                prop_assert!(!(reserved && listed), "page {page:#x} is reserved and listed");
                let inside_one = map.iter().any(|e| e.usable && e.start <= page && end <= e.start + e.length);
                prop_assert!(reserved || !inside_one || listed, "page {page:#x} is usable and lost");
            }
        }

        #[test]
        fn extreme_entries_never_panic(map in prop::collection::vec((any::<u64>(), any::<u64>(), any::<bool>()), 0..300)) {
            let entries = map.into_iter().map(|(start, length, usable)| entry(start, length, usable));
            usable(entries, &mut Notices::default());
        }
    }
}
