//! Assembles packets from bytes: `$`, text, `#`, two checksum digits (gdb manual, "Overview" of the
//! remote protocol). After noise between packets, inside one, or a packet without an end, the next
//! complete packet is found.

/// Size limit of a packet, frame included.
pub const PACKET_LIMIT: usize = 16 * 1024;
/// The byte of gdb's Ctrl-C, between packets.
const INTERRUPT: u8 = 0x03;

/// The result of a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// Nothing is complete yet.
    None,
    /// A packet has begun.
    Begun,
    /// A packet is complete: [`Framer::packet`].
    Packet,
    /// A packet was damaged in transit; its sender must repeat it.
    Damaged,
    /// A packet exceeded [`PACKET_LIMIT`] and was dropped.
    TooLong,
    /// gdb requests a stop.
    Interrupt,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Between,
    Text,
    /// The first checksum digit comes next.
    Checksum,
    /// The second checksum digit comes next.
    Checksum2,
}

/// The assembler of packets.
pub struct Framer {
    bytes: [u8; PACKET_LIMIT],
    length: usize,
    state: State,
    sum: u8,
    too_long: bool,
}

impl Framer {
    /// Creates a framer between packets.
    pub const fn new() -> Self {
        Self { bytes: [0; PACKET_LIMIT], length: 0, state: State::Between, sum: 0, too_long: false }
    }

    /// Takes a byte and returns what it completes.
    pub fn push(&mut self, byte: u8) -> Event {
        match (self.state, byte) {
            // `$` starts a packet wherever it comes, because inside a packet it is escaped.
            (State::Between | State::Text, b'$') => {
                (self.length, self.sum, self.too_long, self.state) = (0, 0, false, State::Text);
                self.keep(byte);
                Event::Begun
            }
            (State::Between, INTERRUPT) => Event::Interrupt,
            (State::Between, _) => Event::None,
            (State::Text, b'#') => {
                self.keep(byte);
                self.state = State::Checksum;
                Event::None
            }
            (State::Text, _) => {
                self.keep(byte);
                self.sum = self.sum.wrapping_add(byte);
                Event::None
            }
            (State::Checksum, _) => {
                self.keep(byte);
                self.state = State::Checksum2;
                Event::None
            }
            (State::Checksum2, _) => {
                self.keep(byte);
                self.state = State::Between;
                self.completed()
            }
        }
    }

    fn keep(&mut self, byte: u8) {
        match self.bytes.get_mut(self.length) {
            Some(place) => {
                *place = byte;
                self.length += 1;
            }
            None => self.too_long = true,
        }
    }

    fn completed(&self) -> Event {
        if self.too_long {
            return Event::TooLong;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16);
        let [.., high, low] = self.packet() else { return Event::Damaged };
        match (digit(*high), digit(*low)) {
            (Some(high), Some(low)) if high * 16 + low == u32::from(self.sum) => Event::Packet,
            _ => Event::Damaged,
        }
    }

    /// Returns the packet that [`Event::Packet`] announced, with its frame.
    pub fn packet(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Returns the packet's text.
    pub fn text(&self) -> &[u8] {
        self.packet().get(1..self.length.saturating_sub(3)).unwrap_or(&[])
    }
}

impl Default for Framer {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn feed(framer: &mut Framer, bytes: &[u8]) -> Event {
        bytes.iter().map(|&byte| framer.push(byte)).last().unwrap_or(Event::None)
    }

    #[test]
    fn packets_interrupts_and_damage_are_told_apart() {
        let mut framer = Framer::new();
        assert_eq!(feed(&mut framer, b"+$g#67"), Event::Packet);
        assert_eq!(framer.text(), b"g");
        assert_eq!(feed(&mut framer, b"$g#68"), Event::Damaged);
        assert_eq!(feed(&mut framer, b"$g#6x"), Event::Damaged);
        assert_eq!(framer.push(INTERRUPT), Event::Interrupt);
        assert_eq!(feed(&mut framer, b"$\x03#"), Event::None);
        assert_eq!(feed(&mut framer, b"03"), Event::Packet);
        // Half a packet, then a complete one.
        assert_eq!(feed(&mut framer, b"$m12,4$?#3f"), Event::Packet);
        assert_eq!(framer.text(), b"?");
    }

    #[test]
    fn a_packet_of_a_megabyte_is_dropped_and_the_next_one_taken() {
        let mut framer = Framer::new();
        framer.push(b'$');
        (0..1 << 20).for_each(|_| assert_eq!(framer.push(b'a'), Event::None));
        assert_eq!(feed(&mut framer, b"#00"), Event::TooLong);
        assert_eq!(feed(&mut framer, b"$?#3f"), Event::Packet);
    }

    proptest! {
        #[test]
        fn after_any_noise_a_packet_sent_twice_is_found(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            let mut framer = Framer::new();
            noise.iter().for_each(|&byte| { framer.push(byte); });
            // The first packet may complete what the noise began.
            feed(&mut framer, b"$qC#b4");
            prop_assert_eq!(feed(&mut framer, b"$?#3f"), Event::Packet);
            prop_assert_eq!(framer.text(), b"?");
        }
    }
}
