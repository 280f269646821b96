//! What more apps, larger payloads and more restarts at once cost.

use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rumqttc::mqttbytes::QoS;

use crate::broker;
use crate::instance::Instance;
use crate::load::Publisher;
use crate::mark::{Marks, milliseconds};
use crate::options::Options;
use crate::process::settled;
use crate::statistics::median;
use crate::support::payload::Push;
use crate::table::{Table, column};

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

pub fn measure(options: &Options) -> Vec<Table> {
    vec![apps(options), payloads(options), restarts(options)]
}

/// Configured apps.
fn apps(options: &Options) -> Table {
    let columns = [
        column("exec to SUBACK ms", 1),
        column("× one app", 2),
        column("resident MiB", 1),
        column("peak MiB", 1),
    ];
    let mut table = Table::new("Growing: apps", "apps configured", &columns);
    let counts: &[usize] = if options.smoke { &[1, 10] } else { &[1, 10, 100, 1_000, 10_000] };
    let mut one = None;
    for count in counts {
        let (mut times, mut resident, mut peak) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..options.rounds {
            let broker = broker::start();
            let agent = Instance::of(broker.port()).apps(*count).start();
            times.push(milliseconds(agent.started, agent.subscribed()));
            // The names of the services are still being looked at.
            settled(|| agent.group.cpu());
            resident.push(agent.group.resident());
            peak.push(agent.group.peak());
        }
        let time = median(&times);
        let ratio = time / *one.get_or_insert(time);
        table.row(count.to_string(), &[time, ratio, median(&resident), median(&peak)].map(Some));
    }
    table
}

/// Payloads that are ignored by their topic, and such as are parsed.
fn payloads(options: &Options) -> Table {
    let columns = [
        column("ignored: CPU ms a message", 3),
        column("parsed: CPU ms a message", 3),
        column("parsed: peak MiB", 1),
    ];
    let mut table = Table::new("Growing: payload", "payload, QoS 1", &columns);
    let sizes = [("1 KB", 1024), ("8 KB", 8 * KIB), ("64 KB", 64 * KIB), ("1 MB", MIB), ("25 MB", 25 * MIB)];
    for (name, size) in sizes {
        let count = options.count((100 * MIB / size).clamp(10, 20_000), 2);
        let [ignored, parsed] = ["acme/other", "managed/app-0"].map(|repo| payload(repo, size, count));
        table.row(name, &[ignored.0, parsed.0, parsed.1].map(Some));
    }
    table
}

fn payload(repo: &str, size: usize, count: usize) -> (f64, f64) {
    let broker = broker::start();
    let agent = Instance::of(broker.port()).apps(1).start();
    agent.subscribed();
    // What deploys nothing, but is read to its end.
    let push = Push::new(repo, 'a').deletion();
    // The smallest has none of what nobody reads.
    let bytes =
        if size < 4 * KIB { push.json_of_2012().to_string().into_bytes() } else { push.bytes_of(size) };
    let settle = || settled(|| agent.group.cpu() + broker::cpu(&broker));
    settle();
    let before = agent.group.cpu();
    Publisher::connect(&broker).publish(&[(push.topic(), bytes)], QoS::AtLeastOnce, count);
    settle();
    (agent.group.cpu().saturating_sub(before).as_secs_f64() * 1e3 / count as f64, agent.group.peak())
}

/// Apps of one repository, all restarted by one push.
fn restarts(options: &Options) -> Table {
    const PARALLEL: [usize; 3] = [1, 4, 32];
    let columns = [
        column("last start ms, max_parallel 1", 0),
        column("max_parallel 4", 0),
        column("max_parallel 32", 0),
    ];
    let mut table = Table::new("Growing: restarts by one push", "apps restarted", &columns);
    let counts: &[usize] = if options.smoke { &[1, 3] } else { &[1, 10, 100, 500] };
    for count in counts {
        let times = PARALLEL.map(|parallel| {
            let rounds = options.count(3, 1);
            median(&(0..rounds).map(|_| restart(*count, parallel)).collect::<Vec<_>>())
        });
        table.row(count.to_string(), &times.map(Some));
    }
    table
}

fn restart(count: usize, parallel: usize) -> f64 {
    let (broker, marks) = (broker::start(), Marks::listen());
    let instance =
        Instance::of(broker.port()).with(&format!("max_parallel: {parallel}")).started_by(&marks.command());
    let agent = (0..count).fold(instance, |it, n| it.app(&format!("app-{n}"), "acme/managed")).start();
    agent.subscribed();
    settled(|| agent.group.cpu());
    // It reads on for a while after it has connected.
    sleep(Duration::from_secs(1));
    let push = Push::new("acme/managed", 'a');
    let published = SystemTime::now();
    Publisher::connect(&broker).publish_one(&push.topic(), &push.bytes());
    let starts = (0..count).map(|_| milliseconds(published, marks.next()));
    starts.fold(0.0, f64::max)
}
