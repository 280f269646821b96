//! MQTT 3.1.1 as rumqttc speaks it.

use rumqttc::{
    AsyncClient, ConnectReturnCode, ConnectionError, EventLoop, Incoming, MqttOptions, NetworkOptions,
    Outgoing as Sent, QoS, StateError, SubscribeFilter, SubscribeReasonCode,
};

use super::failure::Failure;
use super::link::{self, Access, Answer, Connected, Event, Publish};
use super::publish::Outgoing;
use super::settings::MqttSettings;

pub(super) fn open(settings: &MqttSettings, access: &Access, clean: bool) -> (AsyncClient, EventLoop) {
    let mut options = MqttOptions::new(&settings.client_id, &settings.host, settings.port);
    options
        .set_transport(access.transport())
        .set_keep_alive(link::keep_alive(settings))
        .set_clean_session(clean)
        .set_manual_acks(true)
        .set_inflight(link::IN_FLIGHT)
        .set_max_packet_size(settings.max_packet(), settings.max_packet());
    if let Some((user, password)) = access.login(settings) {
        options.set_credentials(user, password);
    }
    let (client, mut events) = AsyncClient::new(options, link::REQUESTS);
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_connection_timeout(link::CONNECT_TIMEOUT.as_secs());
    events.set_network_options(network);
    (client, events)
}

pub(super) async fn poll(events: &mut EventLoop) -> Result<Event, Failure> {
    match events.poll().await {
        Ok(event) => Ok(event.into()),
        Err(error) => Err((&error).into()),
    }
}

pub(super) fn acknowledge(client: &AsyncClient, packet_id: u16) -> bool {
    let mut publish = rumqttc::Publish::new(String::new(), QoS::AtLeastOnce, Vec::new());
    publish.pkid = packet_id;
    client.try_ack(&publish).is_ok()
}

pub(super) fn subscribe(client: &AsyncClient, filters: &[String]) -> bool {
    let filters = filters.iter().map(|filter| SubscribeFilter::new(filter.clone(), QoS::AtLeastOnce));
    client.try_subscribe_many(filters).is_ok()
}

/// Has no place for headers.
pub(super) fn publish(client: &AsyncClient, message: &Outgoing) -> bool {
    let (topic, payload) = (message.topic.clone(), message.payload.clone());
    client.try_publish(topic, QoS::AtLeastOnce, message.retain, payload).is_ok()
}

impl From<rumqttc::Event> for Event {
    fn from(event: rumqttc::Event) -> Self {
        match event {
            rumqttc::Event::Incoming(Incoming::Publish(publish)) => publish.into(),
            rumqttc::Event::Incoming(Incoming::ConnAck(connack)) => Self::Connected(Connected {
                session_present: connack.session_present,
                session_expiry: None,
                receive_maximum: u16::MAX,
            }),
            rumqttc::Event::Incoming(Incoming::SubAck(suback)) => {
                let answers = suback.return_codes.into_iter().map(|code| match code {
                    SubscribeReasonCode::Success(_) => None,
                    SubscribeReasonCode::Failure => Some("refused".to_owned()),
                });
                Self::Subscribed(suback.pkid, answers.collect())
            }
            rumqttc::Event::Incoming(Incoming::UnsubAck(unsuback)) => Self::Unsubscribed(unsuback.pkid),
            rumqttc::Event::Incoming(Incoming::PubAck(_)) => Self::Published(Answer::Taken),
            rumqttc::Event::Outgoing(Sent::Subscribe(id) | Sent::Unsubscribe(id)) => Self::Requested(id),
            _ => Self::Other,
        }
    }
}

impl From<rumqttc::Publish> for Event {
    fn from(publish: rumqttc::Publish) -> Self {
        let packet_id = match publish.qos {
            QoS::AtMostOnce => None,
            QoS::AtLeastOnce => Some(publish.pkid),
            // No subscription asks for it, so no broker may send it.
            QoS::ExactlyOnce => return Self::Other,
        };
        Self::Publish(Publish {
            topic: publish.topic.into(),
            payload: publish.payload,
            headers: Vec::new(),
            retain: publish.retain,
            packet_id,
        })
    }
}

impl From<&ConnectionError> for Failure {
    fn from(error: &ConnectionError) -> Self {
        match error {
            ConnectionError::MqttState(error) => error.into(),
            ConnectionError::NetworkTimeout | ConnectionError::FlushTimeout => {
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
        use rumqttc::Error;
        match error {
            StateError::Io(error) | StateError::Deserialization(Error::Io(error)) => error.into(),
            StateError::Deserialization(Error::PayloadSizeLimitExceeded(size)) => Self::Oversize(*size),
            StateError::ConnectionAborted => Self::Closed,
            StateError::AwaitPingResp => Self::Network("no answer to a ping".into()),
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
