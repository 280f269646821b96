//! MQTT 3.1.1 as rumqttc writes it.

use rumqttc::mqttbytes::v4::{
    ConnAck, Connect, ConnectReturnCode, Login, Packet, PubAck, PubComp, PubRec, Subscribe, SubscribeFilter,
    SubscribeReasonCode, Unsubscribe,
};
use rumqttc::mqttbytes::{Error, QoS};
use tokio_util::bytes::BytesMut;

use super::failure::Failure;
use super::link::{self, Access, Answer, Connected, Event, Grant, Request};
use super::settings::MqttSettings;

pub(super) struct Packets {
    max: usize,
}

impl Packets {
    pub(super) fn new(settings: &MqttSettings) -> Self {
        Self { max: settings.max_packet() }
    }

    pub(super) fn connect(
        &self,
        settings: &MqttSettings,
        access: &Access,
        clean: bool,
        output: &mut BytesMut,
    ) -> Result<(), Failure> {
        let mut connect = Connect::new(&settings.client_id);
        connect.keep_alive = u16::try_from(link::keep_alive(settings).as_secs()).unwrap_or(u16::MAX);
        connect.clean_session = clean;
        connect.login = access.login(settings).map(|(user, password)| Login::new(user, password));
        self.put(&Packet::Connect(connect), output)
    }

    /// `id`: the number of what gets one.
    pub(super) fn write(&self, request: Request, id: u16, output: &mut BytesMut) -> Result<(), Failure> {
        self.put(&packet(request, id), output)
    }

    fn put(&self, packet: &Packet, output: &mut BytesMut) -> Result<(), Failure> {
        packet.write(output, self.max)?;
        Ok(())
    }
}

/// Reads a packet that is all there, and no message.
pub(super) fn read(mut packet: BytesMut) -> Result<Event, Failure> {
    event(Packet::read(&mut packet, usize::MAX)?)
}

fn packet(request: Request, id: u16) -> Packet {
    match request {
        Request::Acknowledge(packet_id) => Packet::PubAck(PubAck::new(packet_id)),
        Request::Received(packet_id) => Packet::PubRec(PubRec::new(packet_id)),
        Request::Complete(packet_id) => Packet::PubComp(PubComp::new(packet_id)),
        Request::Subscribe(filters) => {
            let filters = filters.into_iter().map(|filter| SubscribeFilter::new(filter, QoS::AtLeastOnce));
            let mut subscribe = Subscribe::new_many(filters);
            subscribe.pkid = id;
            Packet::Subscribe(subscribe)
        }
        Request::Unsubscribe(filter) => {
            let mut unsubscribe = Unsubscribe::new(filter);
            unsubscribe.pkid = id;
            Packet::Unsubscribe(unsubscribe)
        }
        // It has no place for headers.
        Request::Publish(message) => {
            let mut publish = rumqttc::Publish::new(message.topic, QoS::AtLeastOnce, message.payload);
            (publish.pkid, publish.retain) = (id, message.retain);
            Packet::Publish(publish)
        }
        Request::Ping => Packet::PingReq,
        Request::Disconnect => Packet::Disconnect,
    }
}

fn event(packet: Packet) -> Result<Event, Failure> {
    Ok(match packet {
        Packet::ConnAck(ConnAck { session_present, code: ConnectReturnCode::Success }) => {
            Event::Connected(Connected {
                session_present,
                session_expiry: None,
                receive_maximum: u16::MAX,
                keep_alive: None,
            })
        }
        Packet::ConnAck(refused) => return Err(refused.code.into()),
        Packet::SubAck(suback) => {
            let answers = suback.return_codes.into_iter().map(|code| match code {
                SubscribeReasonCode::Success(QoS::AtMostOnce) => Grant::Qos0,
                SubscribeReasonCode::Success(_) => Grant::Full,
                SubscribeReasonCode::Failure => Grant::Refused("refused".to_owned()),
            });
            Event::Subscribed(suback.pkid, answers.collect())
        }
        Packet::UnsubAck(unsuback) => Event::Unsubscribed(unsuback.pkid),
        Packet::PubAck(_) => Event::Published(Answer::Taken),
        Packet::PubRel(pubrel) => Event::Released(pubrel.pkid),
        // Messages are taken apart before the library sees them.
        Packet::PingResp | Packet::Publish(_) | Packet::PubRec(_) | Packet::PubComp(_) => Event::Other,
        Packet::Connect(_)
        | Packet::Subscribe(_)
        | Packet::Unsubscribe(_)
        | Packet::PingReq
        | Packet::Disconnect => return Err(Failure::Network("it sent what only clients send".into())),
    })
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Io(error) => (&error).into(),
            error => Self::Network(error.to_string()),
        }
    }
}

impl From<ConnectReturnCode> for Failure {
    fn from(code: ConnectReturnCode) -> Self {
        use ConnectReturnCode as Code;
        match code {
            Code::RefusedProtocolVersion => Self::Version,
            Code::BadClientId | Code::BadUserNamePassword | Code::NotAuthorized => {
                Self::Refused(format!("{code:?}"))
            }
            Code::Success | Code::ServiceUnavailable => {
                Self::Network(format!("it refused the connection: {code:?}"))
            }
        }
    }
}
