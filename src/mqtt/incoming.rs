//! What the broker sends, taken apart packet by packet. A message that is not to be read is let go of as it comes in,
//! and acknowledged all the same: otherwise the broker would send it for ever.

use std::ops::Range;

use tokio_util::bytes::{Buf, Bytes, BytesMut};

use super::failure::Failure;
use super::frame::{Head, Length, Opening, PUBLISH, length};
use super::link::{Event, Publish};
use super::settings::{MqttSettings, Protocol};
use super::unfit::{Dropped, MAX_PROPERTIES, Unfit};
use super::v5;
use super::wire::Packets;

/// Room for each read: some eight pushes.
pub(super) const READ: usize = 64 * 1024;
/// The most that the properties of a message may be, and any packet that is no message: in memory, the shortest
/// properties take thirty times what they take on the wire.
const MOST: usize = 1 << 20;

/// What was made of the bytes so far.
pub(super) enum Read {
    Event(Event),
    /// At least so many more bytes are needed.
    Incomplete(usize),
}

/// The receiving half of a connection.
pub(super) struct Incoming {
    /// What was read and not looked at yet.
    pub(super) buffer: BytesMut,
    protocol: Protocol,
    max_packet: usize,
    max_payload: usize,
    skipping: Option<Skipping>,
}

/// A message that is let go of.
struct Skipping {
    /// How much of it is still to come.
    left: usize,
    /// What is to be said of it then.
    event: Event,
}

/// What is to become of a message whose opening is there.
enum Fate {
    Unknown,
    /// Its payload begins there.
    Taken {
        payload: usize,
    },
    Dropped(Unfit),
}

impl Incoming {
    pub(super) fn new(settings: &MqttSettings) -> Self {
        Self {
            buffer: BytesMut::new(),
            protocol: settings.protocol,
            max_packet: settings.max_packet(),
            max_payload: settings.max_payload,
            skipping: None,
        }
    }

    /// No packet has begun of which the rest is to come.
    pub(super) fn is_at_rest(&self) -> bool {
        self.buffer.is_empty() && self.skipping.is_none()
    }

    pub(super) fn next(&mut self, packets: &mut Packets) -> Result<Read, Failure> {
        if let Some(skipping) = self.skipping.take() {
            return Ok(self.skip(skipping.left, skipping.event));
        }
        match Head::of(&self.buffer)? {
            None => Ok(Read::Incomplete(1)),
            Some(head) if head.kind() == PUBLISH => self.message(head),
            Some(head) => self.other(head, packets),
        }
    }

    fn other(&mut self, head: Head, packets: &mut Packets) -> Result<Read, Failure> {
        if head.remaining > MOST {
            return Err(Failure::Oversize(head.remaining));
        }
        let missing = head.packet().saturating_sub(self.buffer.len());
        if missing > 0 {
            return Ok(Read::Incomplete(missing));
        }
        packets.read(head, self.split(head)).map(Read::Event)
    }

    fn message(&mut self, head: Head) -> Result<Read, Failure> {
        let Some(opening) = Opening::of(head, &self.buffer)? else { return Ok(Read::Incomplete(1)) };
        // No subscription of the agent's asks for it, but another client's of the same name may have.
        if let Some(packet_id) = opening.exactly_once() {
            return Ok(self.drop_message(head, &opening, Unfit::ExactlyOnce { packet_id }));
        }
        match self.fate(head, &opening) {
            Fate::Unknown => Ok(Read::Incomplete(1)),
            Fate::Dropped(why) => Ok(self.drop_message(head, &opening, why)),
            Fate::Taken { .. } if self.buffer.len() < head.packet() => {
                Ok(Read::Incomplete(head.packet() - self.buffer.len()))
            }
            Fate::Taken { payload } => Ok(Read::Event(self.take(head, &opening, payload))),
        }
    }

    fn drop_message(&mut self, head: Head, opening: &Opening, why: Unfit) -> Read {
        let topic = Bytes::copy_from_slice(&self.buffer[opening.topic.clone()]);
        let dropped = Dropped { topic, packet_id: opening.packet_id(), why };
        self.skip(head.packet(), Event::Dropped(dropped))
    }

    fn fate(&self, head: Head, opening: &Opening) -> Fate {
        if head.remaining > self.max_packet {
            return Fate::Dropped(Unfit::Packet { size: head.remaining, limit: self.max_packet });
        }
        let payload = match self.protocol {
            Protocol::V311 => opening.end,
            Protocol::V5 => match properties(head, opening, &self.buffer) {
                Ok(Some(properties)) if properties.len() > MOST => {
                    return Fate::Dropped(Unfit::Properties { size: properties.len(), limit: MOST });
                }
                Ok(Some(properties)) => properties.end,
                Ok(None) => return Fate::Unknown,
                Err(why) => return Fate::Dropped(why),
            },
        };
        let size = head.packet() - payload;
        if size > self.max_payload {
            return Fate::Dropped(Unfit::Payload { size, limit: self.max_payload });
        }
        Fate::Taken { payload }
    }

    /// The message at the beginning of the buffer, all of which is there.
    fn take(&mut self, head: Head, opening: &Opening, payload: usize) -> Event {
        let mut packet = self.split(head).freeze();
        let topic = packet.slice(opening.topic.clone());
        let packet_id = opening.packet_id();
        let properties = opening.end..payload;
        // A single byte is the length of none.
        let none = properties.len() <= 1;
        match if none { Ok(Vec::new()) } else { headers(packet.slice(properties)) } {
            Ok(headers) => {
                packet.advance(payload);
                Event::Publish(Publish { topic, payload: packet, headers, retain: opening.retain, packet_id })
            }
            Err(why) => Event::Dropped(Dropped { topic, packet_id, why }),
        }
    }

    fn split(&mut self, head: Head) -> BytesMut {
        let packet = self.buffer.split_to(head.packet());
        if packet.len() > READ {
            // Reading on in the old buffer, it would keep its size for as long as the connection lasts.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        packet
    }

    /// Lets go of so many bytes, `left`, of which not all may have come; then this is what happened.
    fn skip(&mut self, left: usize, event: Event) -> Read {
        let here = left.min(self.buffer.len());
        self.buffer.advance(here);
        if here == left {
            return Read::Event(event);
        }
        self.skipping = Some(Skipping { left: left - here, event });
        Read::Incomplete(1)
    }
}

/// Where a message's properties are, and their length before them. `None`: the length is not all there.
fn properties(head: Head, opening: &Opening, input: &[u8]) -> Result<Option<Range<usize>>, Unfit> {
    let packet = &input[..input.len().min(head.packet())];
    match length(&packet[opening.end..]) {
        Length::Is { value, bytes } if opening.end + bytes + value <= head.packet() => {
            Ok(Some(opening.end..opening.end + bytes + value))
        }
        Length::Unfinished if packet.len() < head.packet() => Ok(None),
        _ => Err(Unfit::Malformed("its properties do not end within it".into())),
    }
}

fn headers(properties: Bytes) -> Result<Vec<(String, String)>, Unfit> {
    let headers = v5::headers(properties).map_err(Unfit::Malformed)?;
    if headers.len() > MAX_PROPERTIES { Err(Unfit::Headers(headers.len())) } else { Ok(headers) }
}

#[cfg(test)]
mod tests;
