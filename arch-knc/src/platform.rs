//! The card's registers, through the direct map.

use arch_x64::paging::physical_to_virtual;

/// Physical addresses of the register blocks [SSDG].
const DBOX: u64 = 0x8_007c_0000;
const SBOX: u64 = 0x8_007d_0000;
/// DBOX: two ASCII characters the host can read, low byte first.
const POSTCODE: u64 = DBOX + 0x242c;
/// SBOX scratchpad 4: ICC divider in 29:25, 0 means 20.
const SPAD4: u64 = SBOX + 0xab30;
/// SBOX: feedback divider in 8:1, feed-forward code in 10:9.
const CURRENT_RATIO: u64 = SBOX + 0x402c;
/// Reference clock of the core's PLL, in Hz.
const REFERENCE_HZ: u64 = 4_000_000_000;
const DEFAULT_DIVIDER: u64 = 20;

fn read(register: u64) -> u32 {
    // SAFETY: the card's registers are mapped by whoever enters the kernel; reading these has no effect.
    unsafe { physical_to_virtual(register).cast::<u32>().read_volatile() }
}

/// Shows two characters to the host.
pub fn show_post_code(characters: [u8; 2]) {
    let value = u32::from(u16::from_le_bytes(characters));
    // SAFETY: as in `read`; the register only shows what is written.
    unsafe { physical_to_virtual(POSTCODE).cast::<u32>().write_volatile(value) };
}

/// The core clock, which is also the time counter's, in Hz. 1.1 GHz on a 3120A.
pub fn core_hz() -> u64 {
    core_hz_of(read(SPAD4), read(CURRENT_RATIO))
}

const fn core_hz_of(scratchpad: u32, ratio: u32) -> u64 {
    let divider = match (scratchpad >> 25 & 0x1f) as u64 {
        0 => DEFAULT_DIVIDER,
        divider => divider,
    };
    let feedback = (ratio >> 1 & 0xff) as u64;
    let feed_forward = match ratio >> 9 & 3 {
        3 => 1,
        2 => 2,
        _ => 4,
    };
    REFERENCE_HZ / divider * feedback / feed_forward
}

/// Measured on a 3120A [3120A]: these two are 1100 MHz.
const _: () = assert!(core_hz_of(0x2800_e6cf, 0x0416_0416) == 1_100_000_000);
