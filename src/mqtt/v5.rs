//! MQTT 5 as rumqttc writes it.

use std::time::Duration;

use rumqttc::v5::mqttbytes::v5::{
    self, ConnAck, Connect, ConnectProperties, ConnectReturnCode, Disconnect, DisconnectReasonCode, Filter,
    Login, Packet, PingReq, PubAck, PubAckReason, PubComp, PubRec, PublishProperties, RetainForwardRule,
    Subscribe, SubscribeReasonCode, Unsubscribe,
};
use rumqttc::v5::mqttbytes::{Error, QoS};
use tokio_util::bytes::{Bytes, BytesMut};

use super::failure::{Failure, printable};
use super::frame::{CONNACK, DISCONNECT, Head};
use super::link::{self, Access, Answer, Connected, Event, Grant, Request};
use super::publish::Outgoing;
use super::queue::QUEUE_MESSAGES;
use super::settings::MqttSettings;

/// Half of what the queue holds: the messages of an ended connection may still be in it.
const RECEIVE_MAXIMUM: u16 = QUEUE_MESSAGES / 2;

#[derive(Default)]
pub(super) struct Packets {
    /// What the broker takes.
    max_outgoing: Option<u32>,
}

impl Packets {
    pub(super) fn connect(
        &self,
        settings: &MqttSettings,
        access: &Access,
        clean: bool,
        output: &mut BytesMut,
    ) -> Result<(), Failure> {
        let connect = Connect {
            keep_alive: u16::try_from(link::keep_alive(settings).as_secs()).unwrap_or(u16::MAX),
            client_id: settings.client_id.clone(),
            clean_start: clean,
            properties: Some(Self::connect_properties(settings)),
        };
        let login = access.login(settings).map(|(user, password)| Login::new(user, password));
        self.put(&Packet::Connect(connect, None, login), output)
    }

    fn connect_properties(settings: &MqttSettings) -> ConnectProperties {
        let mut properties = ConnectProperties::new();
        properties.session_expiry_interval =
            Some(u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX));
        properties.receive_maximum = Some(RECEIVE_MAXIMUM);
        // No largest packet is named: mosquitto 2.0.11 would count those that it holds back as sent, until it sends nothing more.
        properties
    }

    /// Reads a packet that is all there, and no message.
    pub(super) fn read(&mut self, head: Head, packet: BytesMut) -> Result<Event, Failure> {
        let mut packet = spelled_out(head, packet)?;
        self.event(Packet::read(&mut packet, None)?)
    }

    /// `id`: the number of what gets one.
    pub(super) fn write(&self, request: Request, id: u16, output: &mut BytesMut) -> Result<(), Failure> {
        self.put(&packet(request, id), output)
    }

    fn put(&self, packet: &Packet, output: &mut BytesMut) -> Result<(), Failure> {
        packet.write(output, self.max_outgoing)?;
        Ok(())
    }

    fn event(&mut self, packet: Packet) -> Result<Event, Failure> {
        Ok(match packet {
            Packet::ConnAck(connack) if connack.code == ConnectReturnCode::Success => {
                self.max_outgoing =
                    connack.properties.as_ref().and_then(|properties| properties.max_packet_size);
                Event::Connected((&connack).into())
            }
            Packet::ConnAck(refused) => return Err(refused.code.into()),
            Packet::SubAck(suback) => {
                let answers = suback.return_codes.into_iter().map(|code| match code {
                    SubscribeReasonCode::Success(QoS::AtMostOnce) => Grant::Qos0,
                    SubscribeReasonCode::Success(_) => Grant::Full,
                    refused => Grant::Refused(format!("{refused:?}")),
                });
                Event::Subscribed(suback.pkid, answers.collect())
            }
            Packet::UnsubAck(unsuback) => Event::Unsubscribed(unsuback.pkid),
            Packet::PubAck(puback) => Event::Published(puback.into()),
            Packet::Disconnect(disconnect) => {
                let words = disconnect.properties.and_then(|properties| properties.reason_string);
                return Err(disconnected(disconnect.reason_code, words.as_deref()));
            }
            // Messages are taken apart before the library sees them.
            Packet::PingResp(_)
            | Packet::Publish(_)
            | Packet::Auth(_)
            | Packet::PubRec(_)
            | Packet::PubComp(_) => Event::Other,
            Packet::PubRel(pubrel) => Event::Released(pubrel.pkid),
            Packet::Connect(..) | Packet::Subscribe(_) | Packet::Unsubscribe(_) | Packet::PingReq(_) => {
                return Err(Failure::Network("it sent what only clients send".into()));
            }
        })
    }
}

/// The library looks for a reason and a length of properties even where both may be left out, or the latter.
fn spelled_out(head: Head, packet: BytesMut) -> Result<BytesMut, Failure> {
    Ok(match (head.kind(), &packet[head.size..]) {
        // MQTT 5 has no such codes but 0, and properties behind that: this is all of a CONNACK of MQTT 3.1.1.
        (CONNACK, &[_, code]) if code < 0x80 => return Err(Failure::Version),
        (CONNACK, &[flags, code]) => BytesMut::from(&[packet[0], 3, flags, code, 0][..]),
        // MQTT 5, 3.14.2.1 and 3.14.2.2.1.
        (DISCONNECT, &[]) => BytesMut::from(&[packet[0], 2, 0, 0][..]),
        (DISCONNECT, &[code]) => BytesMut::from(&[packet[0], 2, code, 0][..]),
        _ => packet,
    })
}

/// The headers among a message's properties, before which their length stands; else what is wrong with them.
pub(super) fn headers(mut properties: Bytes) -> Result<Vec<(String, String)>, String> {
    let properties = PublishProperties::read(&mut properties).map_err(|error| error.to_string())?;
    Ok(properties.map(|properties| properties.user_properties).unwrap_or_default())
}

fn packet(request: Request, id: u16) -> Packet {
    match request {
        Request::Acknowledge(packet_id) => Packet::PubAck(PubAck::new(packet_id, None)),
        Request::Received(packet_id) => Packet::PubRec(PubRec::new(packet_id, None)),
        Request::Complete(packet_id) => Packet::PubComp(PubComp::new(packet_id, None)),
        Request::Subscribe(filters) => {
            let filters = filters.into_iter().map(|filter| {
                let mut filter = Filter::new(filter, QoS::AtLeastOnce);
                filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
                filter
            });
            Packet::Subscribe(Subscribe { pkid: id, filters: filters.collect(), properties: None })
        }
        Request::Unsubscribe(filter) => {
            Packet::Unsubscribe(Unsubscribe { pkid: id, filters: vec![filter], properties: None })
        }
        Request::Publish(message) => Packet::Publish(publish(message, id)),
        Request::Ping => Packet::PingReq(PingReq),
        Request::Disconnect => Packet::Disconnect(Disconnect::new(DisconnectReasonCode::NormalDisconnection)),
    }
}

fn publish(message: Outgoing, id: u16) -> v5::Publish {
    let Outgoing { topic, payload, headers, retain } = message;
    let properties = PublishProperties { user_properties: headers, ..PublishProperties::default() };
    let mut publish = v5::Publish::new(topic, QoS::AtLeastOnce, payload, Some(properties));
    (publish.pkid, publish.retain) = (id, retain);
    publish
}

impl From<PubAck> for Answer {
    fn from(puback: PubAck) -> Self {
        match puback.reason {
            PubAckReason::Success => Self::Taken,
            PubAckReason::NoMatchingSubscribers => Self::NoSubscribers,
            refused => {
                let words = puback.properties.and_then(|properties| properties.reason_string);
                let words = words.map(|words| format!(" ({})", printable(&words))).unwrap_or_default();
                Self::Refused(format!("{refused:?}{words}"))
            }
        }
    }
}

impl From<&ConnAck> for Connected {
    fn from(connack: &ConnAck) -> Self {
        let properties = connack.properties.as_ref();
        let seconds = properties.and_then(|properties| properties.session_expiry_interval);
        let keep_alive = properties.and_then(|properties| properties.server_keep_alive);
        Self {
            session_present: connack.session_present,
            session_expiry: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX),
            keep_alive: keep_alive.map(|seconds| Duration::from_secs(seconds.into())),
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => (&error).into(),
            Error::OutgoingPacketTooLarge { pkt_size, max } => Self::TooLarge { size: pkt_size, most: max },
            error => Self::Network(error.to_string()),
        }
    }
}

fn disconnected(code: DisconnectReasonCode, words: Option<&str>) -> Failure {
    let hint = match code {
        DisconnectReasonCode::SessionTakenOver => ": another client uses this mqtt.client_id",
        _ => "",
    };
    let words = words.map(|words| format!(" ({})", printable(words))).unwrap_or_default();
    Failure::Disconnected(format!("{code:?}{words}{hint}"))
}

impl From<ConnectReturnCode> for Failure {
    fn from(code: ConnectReturnCode) -> Self {
        use ConnectReturnCode as Code;
        match code {
            Code::RefusedProtocolVersion | Code::UnsupportedProtocolVersion => Self::Version,
            Code::BadClientId
            | Code::ClientIdentifierNotValid
            | Code::BadUserNamePassword
            | Code::NotAuthorized
            | Code::Banned
            | Code::BadAuthenticationMethod => Self::Refused(format!("{code:?}")),
            code => Self::Network(format!("it refused the connection: {code:?}")),
        }
    }
}
