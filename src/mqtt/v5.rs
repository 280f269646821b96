//! MQTT 5 as rumqttc speaks it.

use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{
    ConnAck, ConnectProperties, ConnectReturnCode, DisconnectReasonCode, Filter, PubAck, PubAckReason,
    PublishProperties, RetainForwardRule, SubscribeReasonCode,
};
use rumqttc::v5::{AsyncClient, ConnectionError, EventLoop, Incoming, MqttOptions, StateError};
use rumqttc::{NetworkOptions, Outgoing as Sent};

use super::failure::{Failure, printable};
use super::link::{self, Access, Answer, Connected, Event, Publish};
use super::publish::Outgoing;
use super::queue::QUEUE_MESSAGES;
use super::settings::MqttSettings;

/// Half of what the queue holds: the messages of an ended connection may still be in it.
const RECEIVE_MAXIMUM: u16 = QUEUE_MESSAGES / 2;

pub(super) fn open(settings: &MqttSettings, access: &Access, clean: bool) -> (AsyncClient, EventLoop) {
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    options
        .set_transport(access.transport())
        .set_keep_alive(link::keep_alive(settings))
        .set_clean_start(clean)
        .set_manual_acks(true)
        .set_outgoing_inflight_upper_limit(link::IN_FLIGHT)
        .set_connection_timeout(link::CONNECT_TIMEOUT.as_secs())
        .set_network_options(network)
        .set_connect_properties(connect_properties(settings));
    if let Some((user, password)) = access.login(settings) {
        options.set_credentials(user, password);
    }
    AsyncClient::new(options, link::REQUESTS)
}

fn connect_properties(settings: &MqttSettings) -> ConnectProperties {
    let mut properties = ConnectProperties::new();
    properties.session_expiry_interval =
        Some(u32::try_from(settings.session_expiry.as_secs()).unwrap_or(u32::MAX));
    properties.receive_maximum = Some(RECEIVE_MAXIMUM);
    // The library knows no other way to take more than 10 KiB, so the broker learns of the limit.
    properties.max_packet_size = u32::try_from(settings.max_packet()).ok();
    properties
}

/// `keep_alive`: how often to prove to be alive where the broker asks for no proof.
pub(super) async fn poll(events: &mut EventLoop, keep_alive: Duration) -> Result<Event, Failure> {
    match events.poll().await {
        Ok(event) => {
            // The library takes a server keep alive of 0, which means "never", for "without pause".
            if events.options.keep_alive().is_zero() {
                events.options.set_keep_alive(keep_alive);
            }
            Ok(event.into())
        }
        Err(error) => Err((&error).into()),
    }
}

pub(super) fn acknowledge(client: &AsyncClient, packet_id: u16) -> bool {
    let publish =
        rumqttc::v5::mqttbytes::v5::Publish { qos: QoS::AtLeastOnce, pkid: packet_id, ..Default::default() };
    client.try_ack(&publish).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[String]) -> bool {
    let filters = filters.iter().map(|filter| {
        let mut filter = Filter::new(filter.clone(), QoS::AtLeastOnce);
        filter.retain_forward_rule = RetainForwardRule::OnNewSubscribe;
        filter
    });
    client.try_subscribe_many(filters).is_ok()
}

pub(super) fn publish(client: &AsyncClient, message: &Outgoing) -> bool {
    let (topic, payload) = (message.topic.clone(), message.payload.clone());
    let properties =
        PublishProperties { user_properties: message.headers.clone(), ..PublishProperties::default() };
    client.try_publish_with_properties(topic, QoS::AtLeastOnce, message.retain, payload, properties).is_ok()
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

impl From<rumqttc::v5::Event> for Event {
    fn from(event: rumqttc::v5::Event) -> Self {
        use rumqttc::v5::Event::{Incoming as In, Outgoing as Out};
        match event {
            In(Incoming::Publish(publish)) => publish.into(),
            In(Incoming::ConnAck(connack)) => connack.into(),
            In(Incoming::SubAck(suback)) => {
                let answers = suback.return_codes.into_iter().map(|code| match code {
                    SubscribeReasonCode::Success(_) => None,
                    refused => Some(format!("{refused:?}")),
                });
                Self::Subscribed(suback.pkid, answers.collect())
            }
            In(Incoming::UnsubAck(unsuback)) => Self::Unsubscribed(unsuback.pkid),
            In(Incoming::PubAck(puback)) => Self::Published(puback.into()),
            Out(Sent::Subscribe(id) | Sent::Unsubscribe(id)) => Self::Requested(id),
            _ => Self::Other,
        }
    }
}

impl From<ConnAck> for Event {
    fn from(connack: ConnAck) -> Self {
        let properties = connack.properties.as_ref();
        let seconds = properties.and_then(|properties| properties.session_expiry_interval);
        Self::Connected(Connected {
            session_present: connack.session_present,
            session_expiry: seconds.map(|seconds| Duration::from_secs(seconds.into())),
            receive_maximum: properties.and_then(|properties| properties.receive_max).unwrap_or(u16::MAX),
        })
    }
}

impl From<rumqttc::v5::mqttbytes::v5::Publish> for Event {
    fn from(publish: rumqttc::v5::mqttbytes::v5::Publish) -> Self {
        let packet_id = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            // No subscription asks for it, so no broker may send it.
            QoS::ExactlyOnce => return Self::Other,
        };
        Self::Publish(Publish {
            topic: publish.topic,
            payload: publish.payload,
            headers: publish.properties.map(|properties| properties.user_properties).unwrap_or_default(),
            retain: publish.retain,
            packet_id,
        })
    }
}

impl From<&ConnectionError> for Failure {
    fn from(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::MqttState(error) => error.into(),
            ConnectionError::Timeout(_) => {
                Self::Network(format!("no answer within {} s", link::CONNECT_TIMEOUT.as_secs()))
            }
            ConnectionError::Tls(error) => error.into(),
            ConnectionError::Io(error) => error.into(),
            ConnectionError::ConnectionRefused(code) => (*code).into(),
            // Its own words hold the packet.
            ConnectionError::NotConnAck(_) => Self::Network("its first packet was no CONNACK".into()),
            ConnectionError::RequestsDone => Self::Network("the connection was given up".into()),
        }
    }
}

impl From<&StateError> for Failure {
    fn from(error: &StateError) -> Self {
        use rumqttc::v5::mqttbytes::Error;
        match error {
            StateError::Io(error) | StateError::Deserialization(Error::Io(error)) => error.into(),
            StateError::Deserialization(Error::PayloadSizeLimitExceeded { pkt_size, .. }) => {
                Self::Oversize(*pkt_size)
            }
            StateError::Deserialization(Error::OutgoingPacketTooLarge { pkt_size, max }) => {
                Self::TooLarge { size: *pkt_size, most: *max }
            }
            // The answer of a broker that knows only the versions before 5.
            StateError::Deserialization(Error::InvalidConnectReturnCode(1)) => Self::Version,
            StateError::ServerDisconnect { reason_code, reason_string } => {
                disconnected(*reason_code, reason_string.as_deref())
            }
            StateError::ConnectionAborted => Self::Closed,
            StateError::AwaitPingResp => Self::Network("no answer to a ping".into()),
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
