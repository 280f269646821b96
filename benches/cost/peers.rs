//! What else listens to MQTT: a client, a shell loop, a script in Python, and the library's own loop.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Duration;

use rumqttc::v5::mqttbytes::QoS;
use rumqttc::v5::mqttbytes::v5::ConnectProperties;
use rumqttc::v5::{AsyncClient, Event, Incoming, MqttOptions};

use crate::options::Acks;
use crate::process::Group;

/// The id that each of them connects with.
pub const CLIENT: &str = "peer";

/// A subscriber without any of the agent's sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    MosquittoSub,
    ShellLoop,
    Paho,
    Rumqttc(Acks),
}

impl Peer {
    pub const ALL: [Self; 5] = [
        Self::MosquittoSub,
        Self::Rumqttc(Acks::Automatic),
        Self::Rumqttc(Acks::Manual),
        Self::ShellLoop,
        Self::Paho,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::MosquittoSub => "mosquitto_sub, topics to /dev/null",
            Self::ShellLoop => "shell loop, `mosquitto_sub \\| while read`",
            Self::Paho => "paho-mqtt (Python)",
            Self::Rumqttc(Acks::Automatic) => "bare rumqttc loop, automatic acknowledgement",
            Self::Rumqttc(Acks::Manual) => "bare rumqttc loop, manual acknowledgement",
        }
    }

    /// Starts it; it subscribes to `github/+/+`, and looks at nothing but the topic.
    pub fn start(self, port: u16) -> Group {
        let mut command = match self {
            Self::MosquittoSub => {
                let mut command = Command::new("mosquitto_sub");
                command.args(subscription(port)).args(["-F", "%t"]);
                command
            }
            Self::ShellLoop => shell(&format!(
                "mosquitto_sub {} -F %t | while read -r topic; do case $topic in github/acme/managed) break ;; esac; done",
                subscription(port).join(" ")
            )),
            Self::Paho => {
                let mut command = Command::new(python());
                command.args(["-c", PAHO, &port.to_string()]);
                command
            }
            Self::Rumqttc(acks) => {
                let mut command = Command::new(std::env::current_exe().unwrap());
                command.arg(if acks == Acks::Manual { "--peer-manual" } else { "--peer-automatic" });
                command.arg(port.to_string());
                command
            }
        };
        command.stdin(Stdio::null()).stdout(Stdio::null());
        Group::spawn(command)
    }
}

/// What a shell loop does for each push: mark at once, or look at the ref first.
pub fn acting_loop(port: u16, mark: &[String], reads_ref: bool) -> Group {
    let (subscription, mark) = (subscription(port).join(" "), mark.join(" "));
    let script = if reads_ref {
        format!(
            "mosquitto_sub {subscription} -F '%t %p' | while read -r topic payload; do case $topic in github/acme/managed)
               ref=$(printf '%s\\n' \"$payload\" | jq -r .ref); if [ \"$ref\" = refs/heads/main ]; then {mark}; fi ;;
             esac; done"
        )
    } else {
        format!(
            "mosquitto_sub {subscription} -F %t | while read -r topic; do case $topic in github/acme/managed) {mark} ;; esac; done"
        )
    };
    Group::spawn(shell(&script))
}

fn shell(script: &str) -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", script]);
    command
}

fn subscription(port: u16) -> Vec<String> {
    let port = port.to_string();
    ["-h", "127.0.0.1", "-p", &port, "-i", CLIENT, "-q", "1", "-t", "github/+/+"].map(str::to_owned).to_vec()
}

const PAHO: &str = "
import sys
import paho.mqtt.client as mqtt

def connected(client, *_):
    client.subscribe('github/+/+', 1)

def received(client, userdata, message):
    if message.topic == 'github/acme/managed':
        print(message.topic)

client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, client_id='peer')
client.on_connect = connected
client.on_message = received
client.connect('127.0.0.1', int(sys.argv[1]))
client.loop_forever()
";

/// Where scripts/install-bench-tools puts it: beside what is built.
fn python() -> PathBuf {
    let program = std::env::current_exe().unwrap();
    let target = program.ancestors().find(|directory| directory.join("tools/bench").is_dir());
    let target = target
        .unwrap_or_else(|| panic!("paho-mqtt is missing: run scripts/install-bench-tools target/tools"));
    target.join("tools/bench/bin/python3")
}

/// The least that a program around the library can do.
#[tokio::main(flavor = "current_thread")]
pub async fn rumqttc_loop(acks: Acks, port: u16) {
    let mut properties = ConnectProperties::new();
    properties.max_packet_size = Some(64 << 20);
    let mut options = MqttOptions::new(CLIENT, "127.0.0.1", port);
    options
        .set_keep_alive(Duration::from_secs(30))
        .set_manual_acks(acks == Acks::Manual)
        .set_outgoing_inflight_upper_limit(16)
        .set_connect_properties(properties);
    // Room for all, for the loop reads on before it has sent them.
    let (client, mut events) = AsyncClient::new(options, 1 << 20);
    client.try_subscribe("github/+/+", QoS::AtLeastOnce).unwrap();
    while let Ok(event) = events.poll().await {
        let Event::Incoming(Incoming::Publish(publish)) = event else { continue };
        if acks == Acks::Manual && publish.qos == QoS::AtLeastOnce {
            client.try_ack(&publish).unwrap();
        }
    }
}
