//! What the agent costs while nothing happens.

use std::fs;
use std::os::unix::net::UnixDatagram;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use crate::broker;
use crate::instance::{Agent, Instance, authority, program};
use crate::mark::milliseconds;
use crate::options::Options;
use crate::statistics::median;
use crate::support::Mosquitto;
use crate::table::{Table, column};

/// Half of it is how often the watchdog is fed: that of the unit in the package.
const WATCHDOG_USEC: &str = "60000000";
/// tokio's threads for files end after 10 s without work.
const CALM: Duration = Duration::from_secs(12);

const VARIANTS: [(&str, bool); 4] = [("5", false), ("3.1.1", false), ("5", true), ("3.1.1", true)];

pub fn measure(options: &Options) -> Vec<Table> {
    let authority = authority();
    let dir = authority.path().display();
    let plain = broker::start();
    let tls = Mosquitto::configured(|_| {
        format!("certfile {dir}/cert.pem\nkeyfile {dir}/key.pem\nallow_anonymous true")
    });
    let instance = |(protocol, with_tls): (&str, bool)| {
        let instance = if with_tls {
            Instance::with_tls(tls.port(), authority.path())
        } else {
            Instance::of(plain.port())
        };
        instance.mqtt(&format!("protocol: \"{protocol}\"")).mqtt("keep_alive: 30s").apps(1)
    };
    let starts = start_times(options, instance);
    let socket = authority.path().join("notify");
    let listener = UnixDatagram::bind(&socket).unwrap();
    // As systemd does: who is not heard waits. It ends with this process.
    thread::spawn(move || while listener.recv(&mut [0; 4096]).is_ok() {});
    let agents = VARIANTS.map(|variant| {
        let agent = instance(variant).start_with(|command| {
            command.env("WATCHDOG_USEC", WATCHDOG_USEC).env("NOTIFY_SOCKET", &socket);
        });
        agent.subscribed();
        agent
    });
    sleep(if options.smoke { Duration::ZERO } else { CALM });
    let woken = wake_ups(options, &agents);
    let columns = [
        column("resident MiB", 2),
        column("proportional MiB", 2),
        column("threads", 0),
        column("wake-ups a second", 2),
        column("exec to SUBACK ms", 1),
        column("binary MiB", 2),
    ];
    let mut table = Table::new("Idle", "one app, keep-alive 30 s, watchdog 60 s", &columns);
    let binary = fs::metadata(program()).unwrap().len() as f64 / f64::from(1 << 20);
    for (n, (protocol, with_tls)) in VARIANTS.into_iter().enumerate() {
        let group = &agents[n].group;
        let figures =
            [group.resident(), group.proportional(), group.threads() as f64, woken[n], starts[n], binary];
        let name = format!("MQTT {protocol}{}", if with_tls { " with TLS" } else { "" });
        table.row(name, &figures.map(Some));
    }
    vec![table]
}

/// From exec to the broker's answer to the subscription, for each variant.
fn start_times<'a>(options: &Options, instance: impl Fn((&'a str, bool)) -> Instance) -> [f64; 4] {
    let mut times: [Vec<f64>; 4] = Default::default();
    for _ in 0..options.count(21, 1) {
        for (times, variant) in times.iter_mut().zip(VARIANTS) {
            let agent = instance(variant).start();
            times.push(milliseconds(agent.started, agent.subscribed()));
        }
    }
    times.map(|times| median(&times))
}

/// For each agent, over two keep-alives.
fn wake_ups(options: &Options, agents: &[Agent; 4]) -> [f64; 4] {
    let switches = || agents.each_ref().map(|agent| agent.group.switches() as f64);
    let (before, began) = (switches(), Instant::now());
    sleep(if options.smoke { Duration::from_millis(1) } else { Duration::from_secs(60) });
    let (after, seconds) = (switches(), began.elapsed().as_secs_f64());
    std::array::from_fn(|n| (after[n] - before[n]) / seconds)
}
