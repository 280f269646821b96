//! How long it is from a push to the stop command.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use tempfile::TempDir;

use crate::broker;
use crate::instance::{Agent, Instance};
use crate::load::Publisher;
use crate::mark::{Marks, milliseconds};
use crate::options::Options;
use crate::peers::{CLIENT, acting_loop};
use crate::process::Group;
use crate::statistics::{median, percentile};
use crate::support::Mosquitto;
use crate::support::payload::Push;
use crate::table::{Table, column};

/// For what a subscriber does after the stop, so that it is at rest when the next push comes.
const PAUSE: Duration = Duration::from_millis(40);
/// How long an agent reads on after it has connected, before it acts.
const GATE: Duration = Duration::from_secs(1);

const SUBJECTS: [Subject; 4] =
    [Subject::Agent { on_disk: false }, Subject::Agent { on_disk: true }, Subject::Loop, Subject::LoopWithJq];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Subject {
    Agent { on_disk: bool },
    Loop,
    LoopWithJq,
}

impl Subject {
    fn name(self) -> &'static str {
        match self {
            Self::Agent { on_disk: true } => "agent, record on disk (fsync)",
            Self::Agent { on_disk: false } => "agent, record in memory (no fsync)",
            Self::Loop => "shell loop, topic only",
            Self::LoopWithJq => "shell loop, ref read with `jq`",
        }
    }
}

enum Running {
    Agent(Box<Agent>),
    /// Held until it is to end.
    Loop(#[allow(dead_code)] Group),
}

/// A subscriber with a broker of its own.
struct Stage {
    broker: Mosquitto,
    marks: Marks,
    running: Running,
    /// Where an agent's record is, when it is in memory.
    _memory: Option<TempDir>,
}

impl Stage {
    fn set(subject: Subject, level: &'static str) -> Self {
        let (broker, marks) = (broker::start(), Marks::listen());
        let mut memory = None;
        let running = match subject {
            Subject::Agent { on_disk } => {
                let mut instance = Instance::of(broker.port())
                    .app("app", "acme/managed")
                    .log_level(level)
                    .stopped_by(&marks.command());
                if !on_disk {
                    let directory = in_memory();
                    instance = instance.state_dir(directory.path().join("state"));
                    memory = Some(directory);
                }
                let agent = instance.start();
                agent.subscribed();
                sleep(GATE);
                Running::Agent(Box::new(agent))
            }
            Subject::Loop | Subject::LoopWithJq => {
                let group = acting_loop(broker.port(), &marks.command(), subject == Subject::LoopWithJq);
                broker::await_subscriber(&broker, CLIENT);
                Running::Loop(group)
            }
        };
        Self { broker, marks, running, _memory: memory }
    }

    /// Publishes pushes, each when the last has been dealt with, and says when each was published and acted upon.
    fn act(&self, pushes: std::ops::Range<usize>) -> Vec<(SystemTime, SystemTime)> {
        let mut publisher = Publisher::connect(&self.broker);
        let mut times = Vec::new();
        for n in pushes {
            let push = push(n);
            let payload = push.bytes();
            let published = SystemTime::now();
            publisher.publish_one(&push.topic(), &payload);
            times.push((published, self.marks.next()));
            if let Running::Agent(agent) = &self.running {
                agent.logged("deployed", n + 1);
            }
            sleep(PAUSE);
        }
        times
    }
}

/// A directory whose files are never on a disk.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    assert!(memory.is_dir(), "no /dev/shm here");
    tempfile::tempdir_in(memory).unwrap()
}

/// The n-th push, with a commit of its own.
fn push(n: usize) -> Push {
    Push { after: format!("{n:040x}").replacen('0', "a", 1), ..Push::new("acme/managed", 'a') }
}

pub fn measure(options: &Options) -> Vec<Table> {
    let pushes = options.count(500, 2);
    // Between each two rounds the others have their turn.
    let rounds = options.rounds.min(pushes);
    let stages = SUBJECTS.map(|subject| Stage::set(subject, "info"));
    let mut latencies: [Vec<f64>; 4] = Default::default();
    for round in 0..rounds {
        for (stage, latencies) in stages.iter().zip(&mut latencies) {
            let times = stage.act(pushes * round / rounds..pushes * (round + 1) / rounds);
            latencies.extend(times.into_iter().map(|(published, stopped)| milliseconds(published, stopped)));
        }
    }
    drop(stages);
    vec![latency_table(&latencies), split(options)]
}

fn latency_table(latencies: &[Vec<f64>; 4]) -> Table {
    let columns = [
        column("p50 ms", 2),
        column("p99 ms", 2),
        column("p50 × shell loop", 2),
        column("p99 × shell loop", 2),
        column("p50 × loop with jq", 3),
    ];
    let mut table = Table::new("Acting: publish to the stop command's `main`", "500 pushes", &columns);
    let [plain, jq] = [2, 3].map(|n: usize| (median(&latencies[n]), percentile(&latencies[n], 99.0)));
    for (subject, latencies) in SUBJECTS.iter().zip(latencies) {
        let (p50, p99) = (median(latencies), percentile(latencies, 99.0));
        let figures = [p50, p99, p50 / plain.0, p99 / plain.1, p50 / jq.0];
        table.row(subject.name(), &figures.map(Some));
    }
    table
}

/// The steps of an agent, and the line of its log that ends each.
const STEPS: [(&str, &str); 4] = [
    ("receive: publish → message in the agent", "message received"),
    ("decode: → which apps it concerns", "push decoded"),
    ("record: → on disk, with the attempt that it begins", "push taken"),
    ("hand over: → the app's worker begins", "stopping service"),
];

/// Where the time goes, by the log's own times.
fn split(options: &Options) -> Table {
    let columns = [column("p50 ms", 3), column("p99 ms", 3), column("p50 ms without fsync", 3)];
    let mut table = Table::new("Acting: where the time goes", "step", &columns);
    let pushes = options.count(100, 2);
    let [on_disk, in_memory] =
        [true, false].map(|on_disk| steps(&Stage::set(Subject::Agent { on_disk }, "trace"), pushes));
    let names = STEPS.iter().map(|(name, _)| *name).chain(["spawn: → the stop command's `main`"]);
    for ((name, on_disk), in_memory) in names.zip(on_disk).zip(in_memory) {
        table
            .row(name, &[Some(median(&on_disk)), Some(percentile(&on_disk, 99.0)), Some(median(&in_memory))]);
    }
    table
}

/// For each step, how long it took each time.
fn steps(stage: &Stage, pushes: usize) -> [Vec<f64>; 5] {
    let times = stage.act(0..pushes);
    let Running::Agent(agent) = &stage.running else { panic!("no agent") };
    let logged = STEPS.map(|(_, message)| agent.logged(message, pushes));
    let mut steps: [Vec<f64>; 5] = Default::default();
    for (n, (published, stopped)) in times.into_iter().enumerate() {
        let mut moments = vec![published];
        moments.extend(logged.iter().map(|times| times[n]));
        moments.push(stopped);
        for (step, moments) in steps.iter_mut().zip(moments.windows(2)) {
            step.push(milliseconds(moments[0], moments[1]));
        }
    }
    steps
}
