//! Damaged files, and disks that refuse.

use super::support::disk::SmallDisk;
use super::*;

#[test]
fn damaged_records_are_set_aside() {
    let configuration: String = ["api", "web", "db"]
        .map(|app| format!("- {{repo: acme/{app}, service: {app}, branch: main, settle: 0s}}\n"))
        .concat();
    let mut bench = Bench::new(&format!("apps:\n{configuration}"));
    for (app, digit) in [("acme/api", 'a'), ("acme/web", 'b'), ("acme/db", 'c')] {
        bench.deploy(app, digit);
    }
    bench.agent.kill();
    let whole = bench.instance.read("state/apps/api.json");
    bench.instance.write("state/apps/web.json", b"\x00\xff{{{ garbage");
    bench.instance.write("state/apps/db.json", &whole);
    bench.instance.write("state/apps/api.json", &whole[..whole.len() / 2]);
    bench.start_again();
    let damaged =
        bench.agent.logged_times(3, "record set aside", &[("level", "ERROR"), ("error", "is damaged")]);
    for (app, event) in
        ["api", "web", "db"].iter().flat_map(|app| damaged.iter().map(move |event| (app, event)))
    {
        let aside = format!("state/apps/{app}.json.damaged-1");
        assert!(bench.instance.file(&aside).exists(), "no {aside}: {event}");
    }
    assert!(bench.instance.read("state/apps/db.json.damaged-1") == whole);
    for (app, digit) in [("acme/api", 'd'), ("acme/web", 'e'), ("acme/db", 'f')] {
        bench.deploy(app, digit);
    }
    bench.start_again();
    assert!(bench.agent.complaints().is_empty(), "{}", bench.report());
    assert_eq!(bench.instance.status("db")["deployed"]["commit"], *commit('f'));
}

fn refused_by_the_disk(refuse: impl Fn(&SmallDisk), mend: impl Fn(&SmallDisk), why: &str) {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API_AND_WEB);
    let disk = SmallDisk::mount(&instance);
    let mut bench = Bench::of(broker, instance);
    bench.deploy("acme/api", 'a');
    bench.acknowledged(1);
    refuse(&disk);
    bench.push("acme/api", 'b');
    let event = bench.agent.logged("cannot write the journal", &[("app", "api")]);
    assert_eq!(event["level"], "ERROR");
    for (field, part) in [("error", why), ("file", "state/apps/api.json")] {
        assert!(event[field].as_str().unwrap().contains(part), "{event}");
    }
    // The connection goes on with what needs no record.
    publish(&bench.broker, &Push::new("acme/other", 'c'));
    publish(&bench.broker, &Push::new("acme/web", 'c').to("next"));
    bench.acknowledged(3);
    assert_eq!(bench.sent(), 4);
    assert_eq!(bench.agent.log_of("cannot write the journal", &[]).len(), 1, "{}", bench.report());

    // A push that was not acknowledged is sent again.
    bench.start_again();
    bench.agent.logged("cannot write the journal", &[("app", "api")]);
    assert_eq!(bench.sent(), 5, "{}", bench.broker.log());
    assert_eq!(bench.acknowledgements(), 3, "{}", bench.broker.log());
    assert_eq!(bench.count("stop"), 1);
    mend(&disk);
    bench.agent.logged("the journal can be written again", &[]);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    bench.acknowledged(4);
    bench.witnessed('d');
    assert_eq!(bench.agent.log_of("cannot write the journal", &[]).len(), 1, "{}", bench.report());
    assert_eq!(bench.count("start api"), 2, "{}", bench.report());
    bench.agent.kill();
}

#[test]
fn a_full_disk_holds_up_acknowledgements_and_nothing_else() {
    refused_by_the_disk(SmallDisk::fill, SmallDisk::empty, "No space left");
}

#[test]
fn a_read_only_disk_holds_up_acknowledgements_and_nothing_else() {
    refused_by_the_disk(|disk| disk.remount("ro"), |disk| disk.remount("rw"), "Read-only");
}

/// What cannot be read may be whole: nothing is begun that would replace it, but what is down is started.
#[test]
fn a_record_that_cannot_be_read_stops_the_agent_once_services_are_up() {
    let mut bench = Bench::new(STEPS);
    bench.deploy("acme/api", 'a');
    bench.witnessed('c');
    bench.instance.hold("update", "api");
    bench.push("acme/api", 'b');
    let held = bench.instance.held("update", "api");
    bench.agent.kill();
    bench.instance.hold_no_more("update", "api");
    let [file, whole] = ["state/apps/web.json", "whole"].map(|name| bench.instance.file(name));
    fs::rename(&file, &whole).unwrap();
    // Not even root can read a directory as a file.
    fs::create_dir(&file).unwrap();
    bench.agent = bench.instance.start();
    assert_eq!(bench.agent.wait().code(), Some(1), "{}", bench.report());
    let event = bench.agent.logged("no push is taken until it can be read", &[("level", "ERROR")]);
    assert!(event["message"].as_str().unwrap().contains("state/apps/web.json: cannot be read"), "{event}");
    assert!(bench.instance.is_up("api"));
    fs::remove_dir(&file).unwrap();
    fs::rename(whole, file).unwrap();
    bench.agent = debugging(&bench.instance);
    bench.agent.logged("deployed", &[("sha", &commit('b'))]);
    assert_eq!(bench.instance.status("web")["deployed"]["commit"], *commit('c'));
    drop(held);
}

#[test]
fn pushes_to_an_app_that_is_removed_while_the_disk_refuses_are_acknowledged() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    instance.configure(API_AND_WEB);
    let disk = SmallDisk::mount(&instance);
    let bench = Bench::of(broker, instance);
    bench.deploy("acme/api", 'a');
    bench.acknowledged(1);
    disk.remount("ro");
    bench.push("acme/api", 'b');
    bench.agent.logged("cannot write the journal", &[("app", "api")]);
    // While that one is tried again and again, two more come.
    bench.push("acme/api", 'c');
    bench.push("acme/api", 'd');
    publish(&bench.broker, &Push::new("acme/other", 'e'));
    publish(&bench.broker, &Push::new("acme/web", 'e').to("next"));
    bench.acknowledged(3);
    bench.instance.configure(WEB);
    bench.agent.signal(Signal::SIGHUP);
    bench.acknowledged(6);
    disk.remount("rw");
    bench.witnessed('f');
    assert_eq!(bench.count("start api"), 1, "{}", bench.report());
}
