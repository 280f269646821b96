//! The first bytes of a packet: how long it is, and of a message what it takes to acknowledge it unread.

use std::ops::Range;

use super::failure::Failure;

/// Kinds of packets: MQTT 5, 2.1.2; 3.1.1, 2.2.1.
pub(super) const CONNACK: u8 = 2;
pub(super) const PUBLISH: u8 = 3;
pub(super) const DISCONNECT: u8 = 14;

/// A length takes so many bytes at most: MQTT 5, 1.5.5; 3.1.1, 2.2.3.
const LENGTH_BYTES: usize = 4;
/// The size of a number, and of a string's length.
const NUMBER: usize = 2;

/// What every packet begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Head {
    first: u8,
    /// How long it is itself.
    pub(super) size: usize,
    /// How much of the packet comes behind it.
    pub(super) remaining: usize,
}

impl Head {
    /// `None`: not all of it is there.
    pub(super) fn of(input: &[u8]) -> Result<Option<Self>, Failure> {
        let [first, rest @ ..] = input else { return Ok(None) };
        Ok(match length(rest) {
            Length::Is { value, bytes } => Some(Self { first: *first, size: 1 + bytes, remaining: value }),
            Length::Unfinished => None,
            Length::Malformed => return Err(broken("a packet whose length has no end")),
        })
    }

    pub(super) fn kind(self) -> u8 {
        self.first >> 4
    }

    /// The size of the whole packet.
    pub(super) fn packet(self) -> usize {
        self.size + self.remaining
    }
}

/// What every message begins with.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) topic: Range<usize>,
    pub(super) qos: u8,
    pub(super) retain: bool,
    number: Option<u16>,
    /// Where the properties begin, or the payload.
    pub(super) end: usize,
}

impl Opening {
    /// `None`: not all of it is there.
    pub(super) fn of(head: Head, input: &[u8]) -> Result<Option<Self>, Failure> {
        let packet = &input[..input.len().min(head.packet())];
        match Self::read(head, packet) {
            None if packet.len() == head.packet() => Err(broken("a message that ends within its topic")),
            Some(opening) if opening.qos == 3 => Err(broken("a message of QoS 3")),
            Some(opening) if opening.number == Some(0) => Err(broken("a message without its number")),
            found => Ok(found),
        }
    }

    fn read(head: Head, packet: &[u8]) -> Option<Self> {
        let topic = head.size + NUMBER;
        let topic = topic..topic + usize::from(number(packet, head.size)?);
        let qos = (head.first >> 1) & 0b11;
        let (number, end) = match qos {
            0 => (None, topic.end),
            _ => (Some(number(packet, topic.end)?), topic.end + NUMBER),
        };
        (end <= packet.len()).then_some(Self { topic, qos, retain: head.first & 1 == 1, number, end })
    }

    /// What a message with `QoS` 2 is answered for by; `None`: it has another.
    pub(super) fn exactly_once(&self) -> Option<u16> {
        self.number.filter(|_| self.qos == 2)
    }

    /// What to acknowledge; `None`: nothing.
    pub(super) fn packet_id(&self) -> Option<u16> {
        self.number.filter(|_| self.qos == 1)
    }
}

/// A length as MQTT writes it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Length {
    /// Written in so many bytes.
    Is {
        value: usize,
        bytes: usize,
    },
    Unfinished,
    Malformed,
}

pub(super) fn length(input: &[u8]) -> Length {
    let mut value = 0;
    for (place, byte) in input.iter().take(LENGTH_BYTES).enumerate() {
        value |= usize::from(byte & 0x7f) << (7 * place);
        if byte & 0x80 == 0 {
            return Length::Is { value, bytes: place + 1 };
        }
    }
    if input.len() < LENGTH_BYTES { Length::Unfinished } else { Length::Malformed }
}

fn number(packet: &[u8], at: usize) -> Option<u16> {
    packet.get(at..)?.first_chunk().copied().map(u16::from_be_bytes)
}

fn broken(what: &str) -> Failure {
    Failure::Network(format!("it sent {what}"))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn head(input: &[u8]) -> Head {
        Head::of(input).unwrap().unwrap()
    }

    fn opening(packet: &[u8]) -> Result<Option<Opening>, Failure> {
        Opening::of(head(packet), packet)
    }

    /// MQTT 5, table 1-1.
    #[test]
    fn lengths_are_read_as_the_standard_lists_them() {
        let all: [(&[u8], _); 8] = [
            (&[0], 0),
            (&[0x7f], 127),
            (&[0x80, 0x01], 128),
            (&[0xff, 0x7f], 16_383),
            (&[0x80, 0x80, 0x01], 16_384),
            (&[0xff, 0xff, 0x7f], 2_097_151),
            (&[0x80, 0x80, 0x80, 0x01], 2_097_152),
            (&[0xff, 0xff, 0xff, 0x7f], 268_435_455),
        ];
        for (bytes, value) in all {
            assert_eq!(length(bytes), Length::Is { value, bytes: bytes.len() });
            let packet = [&[0x30], bytes].concat();
            assert_eq!(head(&packet), Head { first: 0x30, size: packet.len(), remaining: value });
            for end in 0..packet.len() {
                assert_eq!(Head::of(&packet[..end]), Ok(None), "{packet:?} up to {end}");
            }
        }
        assert_eq!(length(&[0x80; 4]), Length::Malformed);
        assert!(Head::of(&[0x30, 0x80, 0x80, 0x80, 0x80]).is_err());
    }

    #[test]
    fn a_message_is_known_by_its_first_bytes() {
        let packet = [0x33, 200, 1, 0, 3, b'a', b'/', b'b', 1, 2, 0];
        let expected = Opening { topic: 5..8, qos: 1, retain: true, number: Some(258), end: 10 };
        assert_eq!(opening(&packet), Ok(Some(expected)));
        for end in 3..10 {
            assert_eq!(opening(&packet[..end]), Ok(None), "up to {end}");
        }
        let unnumbered = Opening { topic: 4..5, qos: 0, retain: false, number: None, end: 5 };
        assert_eq!(opening(&[0x30, 9, 0, 1, b'a']), Ok(Some(unnumbered)));
    }

    #[test]
    fn only_what_was_delivered_at_least_once_is_acknowledged() {
        for (first, packet_id) in [(0x30, None), (0x32, Some(7)), (0x34, None)] {
            let opening = opening(&[first, 9, 0, 1, b'a', 0, 7]).unwrap().unwrap();
            assert_eq!(opening.packet_id(), packet_id, "{first:x}");
        }
    }

    #[test]
    fn a_message_that_can_not_be_acknowledged_is_the_brokers_fault() {
        let wrong: [&[u8]; 7] = [
            &[0x32, 0],
            &[0x32, 1, 0],
            &[0x32, 4, 0, 9, b'a', b'b'],
            &[0x32, 3, 0, 1, b'a'],
            &[0x30, 2, 0, 1],
            &[0x32, 6, 0, 1, b'a', 0, 0, b'x'],
            &[0x36, 6, 0, 1, b'a', 0, 1, b'x'],
        ];
        for packet in wrong {
            // What comes behind it is another packet's.
            let more = [packet, &[0; 100]].concat();
            for input in [packet, &more] {
                assert!(matches!(opening(input), Err(Failure::Network(_))), "{packet:?}");
            }
        }
    }
}
