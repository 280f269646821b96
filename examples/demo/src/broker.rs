//! The MQTT broker of the demo, and the publisher that hands it GitHub's pushes.

use std::future::Future;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use mqtt5::broker::config::{StorageBackend, StorageConfig};
use mqtt5::broker::{
    BrokerConfig, BrokerEventHandler, BrokerShutdownHandle, MessageDeliveredEvent, MqttBroker,
};
use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::{Packet, PublishProperties};
use rumqttc::v5::{AsyncClient, Event, EventLoop, MqttOptions};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long the broker may take to end, and the publisher to be answered.
const PATIENCE: Duration = Duration::from_secs(10);

/// A broker on a free port of 127.0.0.1.
pub(crate) struct Broker {
    port: u16,
    acknowledged: watch::Receiver<u32>,
    shutdown: BrokerShutdownHandle,
    task: JoinHandle<mqtt5::error::Result<()>>,
}

impl Broker {
    /// Starts it. It keeps sessions in memory and lets everyone in.
    pub(crate) async fn start() -> anyhow::Result<Self> {
        let (count, acknowledged) = watch::channel(0);
        let config = BrokerConfig::new()
            .with_bind_address(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))
            .with_storage(StorageConfig::new().with_backend(StorageBackend::Memory))
            .with_sys_topics_enabled(false)
            .with_event_handler(Arc::new(Acknowledgements(count)));
        let config = BrokerConfig { auth_config: anyone(), ..config };
        let mut broker = MqttBroker::with_config(config).await.context("the broker does not start")?;
        let port = broker.local_addr().context("the broker has no port")?.port();
        let shutdown = broker.shutdown_handle();
        let task = tokio::spawn(async move { broker.run().await });
        Ok(Self { port, acknowledged, shutdown, task })
    }

    /// Where it listens.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How many messages subscribers have acknowledged. Only the agent subscribes.
    pub(crate) fn acknowledged(&self) -> watch::Receiver<u32> {
        self.acknowledged.clone()
    }

    /// Ends it.
    pub(crate) async fn end(self) -> anyhow::Result<()> {
        self.shutdown.shutdown();
        timeout(PATIENCE, self.task).await.context("the broker does not end")??.context("the broker failed")
    }
}

fn anyone() -> mqtt5::broker::config::AuthConfig {
    mqtt5::broker::config::AuthConfig { allow_anonymous: true, ..Default::default() }
}

struct Acknowledgements(watch::Sender<u32>);

impl BrokerEventHandler for Acknowledgements {
    fn on_message_delivered<'a>(
        &'a self,
        _: MessageDeliveredEvent,
    ) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        self.0.send_modify(|count| *count += 1);
        Box::pin(std::future::ready(()))
    }
}

/// Publishes what GitHub's webhook would bring, its headers as user properties, and waits for the broker's answer.
pub(crate) async fn publish(port: u16, topic: &str, delivery: &str, payload: Vec<u8>) -> anyhow::Result<()> {
    let options = MqttOptions::new("demo-publisher", "127.0.0.1", port);
    let (client, connection) = AsyncClient::new(options, 10);
    let header = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let properties = PublishProperties {
        content_type: Some("application/json".to_owned()),
        user_properties: vec![header("X-GitHub-Event", "push"), header("X-GitHub-Delivery", delivery)],
        ..PublishProperties::default()
    };
    client.publish_with_properties(topic, QoS::AtLeastOnce, false, payload, properties).await?;
    timeout(PATIENCE, see_through(client, connection)).await.context("the broker does not answer")?
}

async fn see_through(client: AsyncClient, mut connection: EventLoop) -> anyhow::Result<()> {
    while !matches!(connection.poll().await.context("cannot publish")?, Event::Incoming(Packet::PubAck(_))) {}
    client.disconnect().await?;
    // Ends with the broker hanging up.
    while connection.poll().await.is_ok() {}
    Ok(())
}
