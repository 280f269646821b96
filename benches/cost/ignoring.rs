//! What a message costs that is not for this instance.

use std::collections::BTreeMap;

use rumqttc::mqttbytes::QoS;

use crate::broker;
use crate::instance::{Agent, Instance};
use crate::load::Publisher;
use crate::options::{Acks, Options};
use crate::peers::{self, Peer};
use crate::process::{Group, settled};
use crate::statistics::median;
use crate::support::Mosquitto;
use crate::support::payload::Push;
use crate::table::{Table, column};

/// Messages in a figure.
const PER: f64 = 100_000.0;

/// A subscriber, and what is published to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Subject {
    Agent { protocol: &'static str, apps: usize, exact: bool, pushes: Pushes },
    Peer(usize),
}

/// What the pushes are that the agent hears of, none of which deploys anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Pushes {
    Unmanaged,
    /// To another branch than the app's.
    OtherBranch,
    /// To another than the default branch, which the app follows: it comes after the ref.
    NotTheDefaultBranch,
    /// Of the app's branch, which they delete: all of it must be read.
    Deletion,
}

const AGENT: Subject = Subject::Agent { protocol: "5", apps: 1, exact: false, pushes: Pushes::Unmanaged };

impl Subject {
    fn all() -> Vec<Self> {
        let agent = |protocol, apps, exact, pushes| Self::Agent { protocol, apps, exact, pushes };
        let mut all = vec![
            AGENT,
            agent("3.1.1", 1, false, Pushes::Unmanaged),
            agent("5", 100, false, Pushes::Unmanaged),
            agent("5", 10_000, false, Pushes::Unmanaged),
            agent("5", 1, true, Pushes::Unmanaged),
            agent("5", 1, false, Pushes::OtherBranch),
            agent("5", 1, false, Pushes::NotTheDefaultBranch),
            agent("5", 1, false, Pushes::Deletion),
        ];
        all.extend((0..Peer::ALL.len()).map(Self::Peer));
        all
    }

    fn name(self) -> String {
        match self {
            Self::Peer(n) => Peer::ALL[n].name().to_owned(),
            Self::Agent { exact: true, .. } => {
                "agent, exact subscription (the broker sends nothing)".to_owned()
            }
            Self::Agent { pushes: Pushes::OtherBranch, .. } => {
                "agent, another branch of a managed repository".to_owned()
            }
            Self::Agent { pushes: Pushes::NotTheDefaultBranch, .. } => {
                "agent, the same for an app without `branch` (read up to the default branch)".to_owned()
            }
            Self::Agent { pushes: Pushes::Deletion, .. } => {
                "agent, its branch deleted (read to the end)".to_owned()
            }
            Self::Agent { protocol, apps, .. } => {
                format!("agent, MQTT {protocol}, {apps} app{}", if apps == 1 { "" } else { "s" })
            }
        }
    }

    /// Starts it and waits until it is ready for messages.
    fn start(self, broker: &Mosquitto) -> Running {
        match self {
            Self::Peer(n) => {
                let group = Peer::ALL[n].start(broker.port());
                broker::await_subscriber(broker, peers::CLIENT);
                Running::Peer(group)
            }
            Self::Agent { protocol, apps, exact, pushes } => {
                let subscribe = if exact { "exact" } else { "wildcard" };
                let instance = Instance::of(broker.port())
                    .mqtt(&format!("protocol: \"{protocol}\""))
                    .mqtt(&format!("subscribe: {subscribe}"));
                let instance = if pushes == Pushes::NotTheDefaultBranch {
                    instance.app_of_default_branch("app", "managed/app-0")
                } else {
                    instance.apps(apps)
                };
                let agent = instance.start();
                agent.subscribed();
                Running::Agent(Box::new(agent))
            }
        }
    }

    /// 8 KB each.
    fn messages(self) -> Vec<(String, Vec<u8>)> {
        let message = |push: Push| (push.topic(), push.bytes());
        let managed = Push::new("managed/app-0", 'a');
        match self {
            Self::Agent { pushes: Pushes::OtherBranch | Pushes::NotTheDefaultBranch, .. } => {
                vec![message(managed.to("other"))]
            }
            Self::Agent { pushes: Pushes::Deletion, .. } => vec![message(managed.deletion())],
            _ => (0..100).map(|n| message(Push::new(&format!("acme/repo-{n}"), 'a'))).collect(),
        }
    }
}

enum Running {
    Agent(Box<Agent>),
    Peer(Group),
}

impl Running {
    fn group(&self) -> &Group {
        match self {
            Self::Agent(agent) => &agent.group,
            Self::Peer(group) => group,
        }
    }
}

/// CPU seconds per 100,000 messages, and MiB.
#[derive(Clone, Copy)]
struct Figures {
    cpu: f64,
    peak: f64,
}

fn run(subject: Subject, qos: QoS, count: usize) -> Figures {
    let broker = broker::start();
    let running = subject.start(&broker);
    let mut publisher = Publisher::connect(&broker);
    let group = running.group();
    let messages = subject.messages();
    // The first messages pay for memory that is then kept.
    publisher.publish(&messages, qos, count / 20);
    let settle = || settled(|| group.cpu() + broker::cpu(&broker));
    settle();
    let before = group.cpu();
    publisher.publish(&messages, qos, count);
    settle();
    let cpu = group.cpu().saturating_sub(before).as_secs_f64() * PER / count as f64;
    Figures { cpu, peak: group.peak() }
}

pub fn measure(options: &Options) -> Vec<Table> {
    [QoS::AtMostOnce, QoS::AtLeastOnce].map(|qos| table(options, qos)).into()
}

fn table(options: &Options, qos: QoS) -> Table {
    let mut figures: BTreeMap<Subject, Vec<Figures>> = BTreeMap::new();
    for _ in 0..options.rounds {
        for subject in Subject::all() {
            // As slow as it is, a fifth tells as much.
            let slow = matches!(subject, Subject::Peer(n) if Peer::ALL[n] == Peer::Paho);
            let count = if slow { options.messages.div_ceil(5) } else { options.messages };
            figures.entry(subject).or_default().push(run(subject, qos, count));
        }
    }
    let cpu = |subject: Subject| median(&figures[&subject].iter().map(|it| it.cpu).collect::<Vec<_>>());
    let peak = |subject: Subject| median(&figures[&subject].iter().map(|it| it.peak).collect::<Vec<_>>());
    let peer = |wanted: Peer| Subject::Peer(Peer::ALL.iter().position(|peer| *peer == wanted).unwrap());
    let (sub, floor) = (cpu(peer(Peer::MosquittoSub)), cpu(peer(Peer::Rumqttc(Acks::Automatic))));
    let title = if qos == QoS::AtMostOnce { TITLES[0] } else { TITLES[1] };
    let columns = [
        column("CPU seconds", 3),
        column("× mosquitto_sub", 2),
        column("× bare rumqttc", 2),
        column("× agent", 2),
        column("peak MiB", 1),
    ];
    let mut table = Table::new(title, "100,000 messages of 8 KB", &columns);
    for subject in Subject::all() {
        let cpu_of = cpu(subject);
        let ratio = |to: f64| Some(cpu_of / to);
        table.row(
            subject.name(),
            &[Some(cpu_of), ratio(sub), ratio(floor), ratio(cpu(AGENT)), Some(peak(subject))],
        );
    }
    table
}

const TITLES: [&str; 2] = ["Ignoring, QoS 0", "Ignoring, QoS 1"];
