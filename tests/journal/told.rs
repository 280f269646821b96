//! What is told of the journal, and of the session at the broker.

use std::io;
use std::process::{Command, Output, Stdio};

use super::*;

fn stdout(output: &Output) -> String {
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn status_and_history_are_told_whether_or_not_the_agent_runs() {
    let mut bench = Bench::new(STEPS);
    assert!(stdout(&bench.instance.ask(&["status"])).starts_with("No app has a record in /"));
    assert_eq!(stdout(&bench.instance.ask(&["status", "--json"])).trim(), "[]");
    bench.deploy("acme/api", 'a');
    bench.instance.fail("update", "api", "no space left\n");
    bench.push("acme/api", 'b');
    bench.agent.logged("deploy failed", &[]);
    bench.witnessed('c');
    let ask = |arguments: &[&str]| stdout(&bench.instance.ask(arguments));
    let all = || [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]].map(ask);
    let running = all();
    bench.agent.kill();
    assert_eq!(running, all());
    let lines: Vec<_> = running[0].lines().collect();
    assert_eq!(lines.len(), 3, "{}", running[0]);
    for part in ["api", "failed", "main bbbbbbb", "at update"] {
        assert!(lines[1].contains(part), "no {part} in {}", lines[1]);
    }
    assert!(lines[2].starts_with("web") && lines[2].contains("main ccccccc"), "{}", lines[2]);
    assert!(!running.concat().contains('\x1b'), "coloured");

    let status = bench.instance.status("api");
    let facts = [("/state", "failed"), ("/repository", "acme/api"), ("/last_outcome/outcome", "failed")];
    assert_says(&status, &facts);
    assert_says(&status, &[("/desired/commit", &commit('b')), ("/services/0", "api")]);
    assert_eq!(status["deployed"], Value::Null);
    let history = bench.instance.history("api");
    let [first, second] = &history[..] else { panic!("{history:?}") };
    assert_says(first, &[("/outcome", "deployed"), ("/sha", &commit('a'))]);
    assert_says(second, &[("/outcome", "failed"), ("/step", "update"), ("/output/0", "no space left")]);
    assert!(second["duration_ms"].is_u64() && second["started_at"].is_string(), "{second}");
    let table = ask(&["history", "api"]);
    assert_eq!(table.lines().count(), 3, "{table}");

    let nobody = bench.instance.ask(&["history", "NOSUCH"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nobody.stderr).contains("NOSUCH"), "{nobody:?}");
}

/// As `status | head -1` does, when it is quick.
#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let mut bench = Bench::new(API);
    bench.deploy("acme/api", 'a');
    bench.agent.kill();
    for arguments in [&["status"][..], &["status", "--json"], &["history"], &["history", "--json"]] {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut command = Command::new(env!("CARGO_BIN_EXE_instance-agent"));
        command.args(arguments).arg("--config").arg(bench.instance.file("config.yaml"));
        let output = command.stdin(Stdio::null()).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), &*output.stderr), (Some(0), &b""[..]), "{arguments:?}");
    }
}

#[test]
fn obsolete_filters_are_unsubscribed_by_the_next_agent() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker).mqtt("subscribe: exact");
    instance.configure(API_AND_WEB);
    let mut bench = Bench::of(broker, instance);
    bench.witnessed('a');
    bench.agent.kill();
    bench.instance.configure(WEB);
    bench.start_again();
    let unsubscribed = || {
        let log = bench.broker.log();
        let (_, since) =
            log.split_once(&format!("Received UNSUBSCRIBE from {}", bench.instance.client_id()))?;
        since.contains("github/acme/api").then_some(())
    };
    eventually(unsubscribed, || format!("never unsubscribed: {}", bench.broker.log()));
    bench.push("acme/api", 'b');
    bench.witnessed('c');
    assert_eq!(bench.sent(), 2, "{}", bench.broker.log());
    // And the one after that has nothing left to remove.
    bench.start_again();
    bench.witnessed('d');
    assert_eq!(bench.broker.logged("Received UNSUBSCRIBE"), 1, "{}", bench.broker.log());
}

#[test]
fn a_session_that_was_lost_while_no_agent_ran_is_warned_about() {
    let mut bench = Bench::new(API);
    bench.deploy("acme/api", 'a');
    bench.agent.stop();
    bench.broker.stop();
    fs::remove_file(bench.broker.directory().join("mosquitto.db")).unwrap();
    bench.broker.start_again();
    bench.start_again();
    let event = bench.agent.logged("did not keep the session", &[("level", "WARN")]);
    let since = humantime::parse_rfc3339(event["since"].as_str().unwrap()).unwrap();
    assert!(since.elapsed().unwrap() < PATIENCE, "{event}");
}

#[test]
fn two_agents_with_one_client_id_are_told_and_leave_each_other_time() {
    let first = Bench::new(API);
    let second = Instance::new(&first.broker);
    second.configure(API);
    let theirs = first.instance.read("config.yaml").replace("/state", "/state-2");
    second.write("config.yaml", theirs);
    let second = second.start();
    let told = || {
        let why = [("level", "ERROR"), ("reason", "another client with the id")];
        let told = |agent: &Agent| !agent.log_of("connection lost", &why).is_empty();
        (told(&first.agent) || told(&second)).then_some(())
    };
    eventually(told, || format!("{}\n{}", first.report(), second.report()));
    let connections = first.broker.logged("New client connected");
    assert!(connections < 20, "{connections} connections: {}", first.broker.log());
}
