//! A whole deploy on a real systemd, beside the `systemctl stop` and `systemctl start` that it consists of.

use std::fs::{self, File};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use crate::container::Container;
use crate::instance::program;
use crate::load::Publisher;
use crate::mark::milliseconds;
use crate::options::Options;
use crate::process::Group;
use crate::statistics::{median, percentile};
use crate::support::payload::Push;
use crate::support::{LOOK, PATIENCE};
use crate::table::{Table, column};

/// Nobody else is in the container's network.
const PORT: u16 = 1883;
const LOG: &str = "/run/measured.log";
const CONFIG: &str = "/run/measured.yaml";
const APP: &str = "measured-app";
/// Only the container has this file.
const INSIDE: &str = "/run/measured-inside";

/// What is printed by the process inside: milliseconds of each round.
type Rounds = [Vec<f64>; 2];

pub fn measure(options: &Options) -> Vec<Table> {
    let (this, agent) = (std::env::current_exe().unwrap(), fs::canonicalize(program()).unwrap());
    let container = Container::boot(&[&this, &agent]);
    fs::write(container.path(INSIDE), "").unwrap();
    let mut command = container.command(this.to_str().unwrap());
    command.args(["--inside", "--agent"]).arg(&agent);
    command.arg(if options.smoke { "--smoke" } else { "--bench" });
    let output = command.stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    let [plain, deploys]: Rounds = serde_json::from_slice(&output.stdout).unwrap();
    let columns = [column("p50 ms", 1), column("p99 ms", 1), column("p50 ms more", 1)];
    let mut table =
        Table::new("Deploying: a trivial unit of a real systemd, `settle: 0s`", "100 times each", &columns);
    for (name, times) in
        [("`systemctl stop` and `systemctl start`", &plain), ("agent, publish to deployed", &deploys)]
    {
        let more = median(times) - median(&plain);
        table.row(name, &[median(times), percentile(times, 99.0), more].map(Some));
    }
    vec![table]
}

/// The process inside the container.
pub fn inside(options: &Options) {
    assert!(Path::new(INSIDE).exists(), "it would stop and start units of this host");
    let unit = "[Service]\nExecStart=/bin/sleep 1000000\n";
    fs::write(format!("/run/systemd/system/{APP}.service"), unit).unwrap();
    systemctl(&["daemon-reload"]);
    systemctl(&["start", APP]);
    let _broker = broker();
    let _agent = agent();
    let mut times: Rounds = Default::default();
    for n in 0..options.count(100, 2) {
        let began = Instant::now();
        systemctl(&["stop", APP]);
        systemctl(&["start", APP]);
        times[0].push(began.elapsed().as_secs_f64() * 1e3);
        times[1].push(deploy(n));
    }
    println!("{}", serde_json::to_string(&times).unwrap());
}

fn deploy(n: usize) -> f64 {
    let push = Push { after: format!("{n:040x}").replacen('0', "a", 1), ..Push::new("acme/managed", 'a') };
    let published = SystemTime::now();
    Publisher::connect_to(PORT).publish_one(&push.topic(), &push.bytes());
    let deployed = milliseconds(published, logged("deployed", n + 1));
    // systemd takes a moment for what it does after a start.
    sleep(Duration::from_millis(20));
    deployed
}

fn broker() -> Group {
    let mut command = Command::new("mosquitto");
    command.args(["-p", &PORT.to_string()]).stderr(Stdio::null());
    let broker = Group::spawn(command);
    let deadline = Instant::now() + PATIENCE;
    while std::net::TcpStream::connect(("127.0.0.1", PORT)).is_err() {
        assert!(Instant::now() < deadline, "mosquitto does not start");
        sleep(LOOK);
    }
    broker
}

fn agent() -> Group {
    let config = format!(
        "mqtt: {{url: \"mqtt://127.0.0.1:{PORT}\"}}\nstate_dir: /var/lib/measured\nservice_manager: systemd\n\
         apps:\n- {{repo: acme/managed, service: {APP}, branch: main, settle: 0s}}\n"
    );
    fs::write(CONFIG, config).unwrap();
    let mut command = Command::new(program());
    command.args(["run", "--log-format", "json", "--config", CONFIG]).stderr(File::create(LOG).unwrap());
    let agent = Group::spawn(command);
    logged("subscribed", 1);
    // It reads on for a while after it has connected.
    sleep(Duration::from_secs(1));
    agent
}

/// When this was logged for the n-th time.
fn logged(message: &str, n: usize) -> SystemTime {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let log = fs::read_to_string(LOG).unwrap();
        let events = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        if let Some(event) = events.filter(|event| event["message"] == message).nth(n - 1) {
            return humantime::parse_rfc3339(event["timestamp"].as_str().unwrap()).unwrap();
        }
        assert!(Instant::now() < deadline, "not logged: {message}\n{log}");
        sleep(Duration::from_millis(1));
    }
}

fn systemctl(arguments: &[&str]) {
    assert!(Command::new("systemctl").args(arguments).status().unwrap().success(), "systemctl {arguments:?}");
}
