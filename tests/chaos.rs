//! Pushes to several apps while agent and broker are killed again and again, connections are cut in mid-packet, the
//! configuration is loaded again, and the disk refuses: none is lost, and none is deployed over and over. `INSTANCE_AGENT_SOAK=SECONDS` has it go on for longer, `INSTANCE_AGENT_SEED=N` repeats a run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]

mod support;

use std::env;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use nix::sys::signal::Signal;
use serde_json::Value;
use support::Mosquitto;
use support::agent::{Agent, Instance, eventually};
use support::disk::SmallDisk;
use support::payload::Push;
use support::proxy::Proxy;

const APPS: [&str; 5] = ["api", "web", "db", "mail", "jobs"];
const STEPS: [&str; 3] = ["prepare", "update", "check"];
/// Where a deploy is held up while the agent is killed.
const KILL_POINTS: [&str; 5] = ["prepare", "stop", "update", "start", "check"];
/// Each with some twenty pushes and two kills.
const ROUNDS: usize = 25;

struct Chaos {
    broker: Mosquitto,
    proxy: Proxy,
    disk: SmallDisk,
    instance: Instance,
    agent: Agent,
    random: Rng,
    began: u64,
    pushes: u64,
    of_app: [usize; APPS.len()],
    newest: [String; APPS.len()],
    kills: usize,
    /// Kills that found a deploy of the app which had begun to stop its service.
    hits: [usize; APPS.len()],
    reloads: usize,
}

fn configuration(max_parallel: usize) -> String {
    let apps = APPS.map(|app| {
        let step = |step: &str| {
            format!("  {step}: {{command: [\"{{dir}}/do\", {step}, {app}], dir: \"{{dir}}\"}}\n")
        };
        let steps: String = STEPS.map(step).concat();
        format!("- repo: acme/{app}\n  service: {app}\n  branch: main\n  settle: 0s\n{steps}")
    });
    format!("max_parallel: {max_parallel}\napps:\n{}", apps.concat())
}

impl Chaos {
    fn new(seed: u64) -> Self {
        let broker = Mosquitto::configured(|_| "allow_anonymous true\nmax_queued_messages 0".to_owned());
        let proxy = Proxy::start(broker.port());
        let instance = Instance::at(proxy.port());
        let disk = SmallDisk::mount(&instance);
        instance.configure(&configuration(4));
        let agent = instance.start();
        agent.subscribed(1);
        let began = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let (of_app, newest, hits) = Default::default();
        Self {
            broker,
            proxy,
            disk,
            instance,
            agent,
            random: Rng::with_seed(seed),
            began,
            pushes: 0,
            of_app,
            newest,
            kills: 0,
            hits,
            reloads: 0,
        }
    }

    /// Each is newer than the one before; the broker has it when this returns.
    fn push(&mut self, app: usize) {
        self.pushes += 1;
        let after = format!("{:07x}{:033x}", self.pushes, 0xabc);
        let pushed_at = self.began - 1_000_000 + self.pushes;
        let push = Push { after, pushed_at, ..Push::new(&format!("acme/{}", APPS[app]), '1') };
        self.broker.publish(&push.topic(), &push.bytes());
        self.of_app[app] += 1;
        self.newest[app] = push.after;
    }

    fn push_to_all(&mut self) {
        let mut apps = APPS.map(|_| 0..APPS.len()).into_iter().take(4).flatten().collect::<Vec<_>>();
        self.random.shuffle(&mut apps);
        for app in apps {
            self.push(app);
        }
    }

    fn kill(&mut self) {
        self.agent.kill();
        self.kills += 1;
        for (app, name) in APPS.iter().enumerate() {
            let record = self.instance.read(&format!("state/apps/{name}.json"));
            let touched =
                serde_json::from_str::<Value>(&record).is_ok_and(|it| it["attempt"]["touched"] == true);
            self.hits[app] += usize::from(touched);
        }
    }

    /// In the middle of this step of the app's deploy.
    fn kill_during(&mut self, step: &str, app: usize) {
        self.instance.hold(step, APPS[app]);
        self.push(app);
        let held = self.instance.held(step, APPS[app]);
        self.kill();
        self.instance.hold_no_more(step, APPS[app]);
        self.agent = self.instance.start();
        self.agent.subscribed(1);
        drop(held);
    }

    /// As soon as services and commands have been asked for so many things more.
    fn kill_after(&mut self, events: usize, app: usize) {
        let enough = self.instance.events().len() + events;
        self.push(app);
        let look = || (self.instance.events().len() >= enough).then_some(());
        eventually(look, || self.agent.report());
        self.kill();
        self.agent = self.instance.start();
    }

    /// A push, cut somewhere on its way from the broker.
    fn cut_in_mid_packet(&mut self, app: usize) {
        let bytes = self.random.usize(1..5000);
        let proxy = self.proxy.clone();
        proxy.cut_after(bytes, || {
            // The broker may owe less than that for one push.
            for _ in 0..4 {
                self.push(app);
            }
        });
    }

    /// A push that cannot be recorded for a while.
    fn refused_by_the_disk(&mut self, app: usize) {
        self.disk.remount("ro");
        self.push(app);
        self.agent.logged("cannot write the journal", &[]);
        self.disk.remount("rw");
    }

    /// With the other version of the protocol, so that the connection is renewed.
    fn reload(&mut self) {
        self.reloads += 1;
        let instance = self.instance.clone();
        let protocol = if self.reloads.is_multiple_of(2) { "\"5\"" } else { "3.1.1" };
        instance.mqtt(&format!("protocol: {protocol}")).configure(&configuration(1 + self.reloads % 4));
        self.agent.signal(Signal::SIGHUP);
        self.agent.logged("configuration reloaded", &[]);
    }

    fn round(&mut self) {
        self.push_to_all();
        match self.random.usize(..4) {
            3 => self.reload(),
            0 => self.cut_in_mid_packet(self.random.clone().usize(..APPS.len())),
            1 => self.refused_by_the_disk(self.random.clone().usize(..APPS.len())),
            _ => {}
        }
        let app = self.random.usize(..APPS.len());
        match self.random.usize(..7) {
            step @ 0..5 => self.kill_during(KILL_POINTS[step], app),
            5 => {
                let events = self.random.usize(1..4);
                self.kill_after(events, app);
            }
            _ => {
                self.kill();
                self.agent = self.instance.start();
            }
        }
        // And once more, before or after it has mended what the first kill broke.
        if self.random.bool() {
            self.agent.logged("instance-agent starts", &[]);
        }
        self.kill();
        self.agent = self.instance.start();
    }

    fn is_at_its_newest(&self, app: usize) -> bool {
        let status = self.instance.status(APPS[app]);
        status["state"] == "deployed" && status["deployed"]["commit"] == *self.newest[app]
    }

    /// Everything has come to rest, and is as it should be.
    fn assert_nothing_lost(&self) {
        for (app, name) in APPS.iter().enumerate() {
            let look = || self.is_at_its_newest(app).then_some(());
            let report = || format!("{name}: {}\n{}", self.instance.status(name), self.agent.report());
            eventually(look, report);
            let start = format!("start {name}");
            let events = self.instance.events();
            let starts: Vec<_> = events.iter().filter(|event| event.starts_with(&start)).collect();
            assert_eq!(**starts.last().unwrap(), format!("{start} {}", &self.newest[app][..7]));
            // Such a kill costs two: the start that mends, and that of the deploy that begins again. Killed in its start,
            // the first deploy has had its own by then. No other kill costs any: nothing was stopped.
            let allowed = self.of_app[app] + 2 * self.hits[app];
            assert!(starts.len() <= allowed, "{name} was started {} times", starts.len());
            assert!(self.instance.is_up(name), "{name} is down");
        }
    }
}

#[test]
fn no_push_is_lost_whatever_is_killed() {
    let number = |name| env::var(name).ok().map(|text| text.parse::<u64>().expect(name));
    let seed = number("INSTANCE_AGENT_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("INSTANCE_AGENT_SEED={seed}");
    let soak = Duration::from_secs(number("INSTANCE_AGENT_SOAK").unwrap_or(0));
    let begun = Instant::now();
    let mut chaos = Chaos::new(seed);
    let mut round = 0;
    while round < ROUNDS || begun.elapsed() < soak {
        chaos.round();
        round += 1;
        if round % 5 == 0 {
            chaos.broker.start_again();
        }
    }
    chaos.assert_nothing_lost();
    assert_eq!(chaos.instance.overlaps(), "");
    assert!(chaos.pushes >= 500 && chaos.kills >= 50, "{} pushes, {} kills", chaos.pushes, chaos.kills);
    println!(
        "{} pushes, {} kills, {:?} in mid-deploy, {} reloads, {:?}",
        chaos.pushes,
        chaos.kills,
        chaos.hits,
        chaos.reloads,
        begun.elapsed()
    );
}
