//! Many agents on one broker: one push for all, and the broker restarted under them.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, sleep};
use std::time::{Duration, Instant, SystemTime};

use crate::broker;
use crate::instance::{Agent, Instance};
use crate::load::Publisher;
use crate::mark::{Marks, milliseconds};
use crate::options::Options;
use crate::process::settled;
use crate::statistics::{median, percentile};
use crate::support::payload::Push;
use crate::support::{LOOK, Mosquitto, PATIENCE};
use crate::table::{Table, column};

/// In which connection attempts are counted.
const WINDOW: Duration = Duration::from_millis(100);
/// How often they are looked at.
const SAMPLE: Duration = Duration::from_millis(2);
/// What a connection must have lasted for its loss to count as the first trouble.
const LASTED: Duration = Duration::from_secs(10);

pub fn measure(options: &Options) -> Vec<Table> {
    let count = options.count(1_000, 5);
    let mut broker = broker::start();
    let marks = Marks::listen();
    let started = Instant::now();
    let agents: Vec<Agent> = (0..count)
        .map(|_| Instance::of(broker.port()).app("app", "acme/managed").stopped_by(&marks.command()).start())
        .collect();
    subscribed(&broker, count);
    let everybody = || agents.iter().map(|agent| agent.group.cpu_of_leader()).sum();
    settled(everybody);
    let memory = agents.iter().map(|agent| agent.group.proportional()).sum::<f64>() / count as f64;
    let pushed = push(&broker, &marks, count);
    settled(everybody);
    if !options.smoke {
        sleep(LASTED.saturating_sub(started.elapsed()));
    }
    vec![push_table(count, memory, &pushed), return_table(count, &restart(&mut broker, count))]
}

/// Waits until so many subscriptions have been granted since the broker's log began.
fn subscribed(broker: &Mosquitto, count: usize) {
    let deadline = Instant::now() + PATIENCE * 2;
    while broker.logged(" 1 github/") < count {
        assert!(Instant::now() < deadline, "not all of {count} agents subscribe");
        sleep(LOOK);
    }
}

/// How long after the one push each of them stopped its service, in milliseconds.
fn push(broker: &Mosquitto, marks: &Marks, count: usize) -> Vec<f64> {
    // The agents read on for a while after they have connected.
    sleep(Duration::from_secs(1));
    let push = Push::new("acme/managed", 'a');
    let published = SystemTime::now();
    Publisher::connect(broker).publish_one(&push.topic(), &push.bytes());
    (0..count).map(|_| milliseconds(published, marks.next())).collect()
}

fn push_table(count: usize, memory: f64, stops: &[f64]) -> Table {
    let columns = [
        column("agents", 0),
        column("proportional MiB each", 2),
        column("first stop ms", 1),
        column("median stop ms", 1),
        column("last stop ms", 1),
    ];
    let mut table = Table::new("A fleet: one push for all", "", &columns);
    let figures = [count as f64, memory, percentile(stops, 0.0), median(stops), percentile(stops, 100.0)];
    table.row("one push", &figures.map(Some));
    table
}

/// What a restart of the broker led to.
struct Return {
    /// Until the first and the last were subscribed again, in seconds since the broker was gone.
    down: f64,
    last: f64,
    attempts: u64,
    /// The most attempts in any window.
    peak: u64,
}

fn restart(broker: &mut Mosquitto, count: usize) -> Return {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let counting = scope.spawn(|| count_attempts(&over));
        let gone = Instant::now();
        broker.stop();
        // Its log goes on in the same file.
        let before = broker.logged(" 1 github/");
        broker.start_again();
        let down = gone.elapsed().as_secs_f64();
        subscribed(broker, before + count);
        let last = gone.elapsed().as_secs_f64();
        over.store(true, Ordering::Relaxed);
        let samples = counting.join().unwrap();
        let attempts = samples.last().map_or(0, |last| last.1 - samples[0].1);
        Return { down, last, attempts, peak: peak(&samples) }
    })
}

/// Connections that were asked for on this host so far, by whomever: `ActiveOpens` of the kernel, sampled.
fn count_attempts(over: &AtomicBool) -> Vec<(Instant, u64)> {
    let mut samples = Vec::new();
    while !over.load(Ordering::Relaxed) {
        samples.push((Instant::now(), active_opens()));
        sleep(SAMPLE);
    }
    samples
}

fn active_opens() -> u64 {
    let text = fs::read_to_string("/proc/net/snmp").unwrap();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next().unwrap(), lines.next().unwrap());
    let position = names.split_whitespace().position(|name| name == "ActiveOpens").unwrap();
    values.split_whitespace().nth(position).unwrap().parse().unwrap()
}

fn peak(samples: &[(Instant, u64)]) -> u64 {
    let in_window = |(at, before): &(Instant, u64)| {
        let inside = samples.iter().take_while(|(then, _)| then.saturating_duration_since(*at) <= WINDOW);
        inside.last().map_or(0, |(_, after)| after.saturating_sub(*before))
    };
    samples.iter().map(in_window).max().unwrap_or_default()
}

fn return_table(count: usize, it: &Return) -> Table {
    let columns = [
        column("agents", 0),
        column("broker away s", 2),
        column("all back after s", 2),
        column("connection attempts", 0),
        column("most in 100 ms", 0),
    ];
    let mut table = Table::new("A fleet: the broker restarted", "", &columns);
    let figures = [count as f64, it.down, it.last, it.attempts as f64, it.peak as f64];
    table.row("restart", &figures.map(Some));
    table
}
