//! Tags that change while the agent runs.

use nix::sys::signal::Signal;

use crate::agent::{cloud_config, publish, start};
use crate::support::Mosquitto;
use crate::support::agent::Instance;
use crate::support::imds::{Imds, Trouble};

const TAGS: &str = "tags/instance";
const TAGGED: &str = "ec2: {tags: true, refresh: 1s}\n";
const PER_ENVIRONMENT: &str = "ec2: {tags: true, refresh: 1s}\nenvironment: demo\n\
    apps: [{repo: acme/api, service: api, branch: {demo: demo, production: main}, settle: 0s}]";

#[test]
fn retagging_takes_effect_without_a_restart() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let imds = Imds::with_user_data(cloud_config(&instance, PER_ENVIRONMENT));
    imds.tag(&[("Name", "web-7")]);
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    publish(&broker, "acme/api", "demo", 'a');
    agent.did(&["stop api", "start api aaaaaaa"]);
    imds.tag(&[
        ("instance-agent:environment", "production"),
        ("instance-agent:app:web", "acme/web@release=nginx"),
    ]);
    let reloaded = agent.logged("configuration reloaded", &[("apps", "2")]);
    assert_eq!(reloaded["reconnect"], false);
    publish(&broker, "acme/api", "demo", 'b');
    publish(&broker, "acme/api", "main", 'c');
    agent.did_at_last("start api ccccccc");
    publish(&broker, "acme/web", "release", 'd');
    agent.did_at_last("start nginx ddddddd");
    assert!(!agent.instance.events().iter().any(|event| event.contains("bbbbbbb")), "{}", agent.report());
    // What changes nothing is not spoken of.
    let said = agent.log().len();
    imds.wait_for_requests(2, TAGS);
    imds.tag(&[
        ("Name", "another"),
        ("instance-agent:environment", "production"),
        ("instance-agent:app:web", "acme/web@release=nginx"),
    ]);
    imds.wait_for_requests(2, TAGS);
    let later: Vec<_> = agent.log().split_off(said);
    assert!(later.iter().all(|event| event["message"] != "configuration reloaded"), "{later:#?}");
    assert_eq!(agent.log_of("configuration reloaded", &[]).len(), 1);
}

#[test]
fn an_instance_without_apps_waits_for_its_tags() {
    let broker = Mosquitto::start();
    for subscribe in ["wildcard", "exact"] {
        let instance = Instance::new(&broker).mqtt(&format!("subscribe: {subscribe}"));
        let imds = Imds::with_user_data(cloud_config(&instance, TAGGED));
        let agent = start(&instance, &imds);
        agent.logged("InstanceMetadataTags=enabled", &[("level", "WARN")]);
        agent.logged("waits for tags", &[("level", "WARN")]);
        imds.wait_for_requests(2, TAGS);
        imds.tag(&[("instance-agent:app:api", "acme/api@main=api")]);
        agent.logged("configuration reloaded", &[("apps", "1")]);
        agent.logged(
            "subscribed",
            &[("filters", if subscribe == "exact" { "acme/api" } else { "github/+/+" })],
        );
        publish(&broker, "acme/api", "main", 'a');
        agent.did_at_last("start api aaaaaaa");
    }
}

#[test]
fn a_bad_tag_changes_nothing_and_is_told_once() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let imds = Imds::with_user_data(cloud_config(&instance, TAGGED));
    imds.tag(&[("instance-agent:app:api", "acme/api@main=api")]);
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    imds.tag(&[("instance-agent:app:api", "acme/api@main api")]);
    agent.logged("cannot reload: invalid configuration: tag instance-agent:app:api: its value must be", &[]);
    imds.wait_for_requests(3, TAGS);
    assert_eq!(agent.log_of("cannot reload", &[]).len(), 1, "{}", agent.report());
    publish(&broker, "acme/api", "main", 'a');
    agent.did_at_last("start api aaaaaaa");
    imds.tag(&[("instance-agent:app:api", "acme/api@release=api")]);
    agent.logged("configuration reloaded", &[]);
    publish(&broker, "acme/api", "release", 'b');
    agent.did_at_last("start api bbbbbbb");
}

#[test]
fn tags_that_cannot_be_read_keep_what_they_said() {
    let broker = Mosquitto::start();
    let instance = Instance::new(&broker);
    let imds = Imds::with_user_data(cloud_config(&instance, TAGGED));
    imds.tag(&[("instance-agent:app:api", "acme/api@main=api")]);
    let agent = start(&instance, &imds);
    agent.subscribed(1);
    imds.state().trouble = Some(Trouble::Status(403));
    agent.logged("cannot read the tags", &[("level", "WARN"), ("trouble", "is off")]);
    agent.signal(Signal::SIGHUP);
    agent.logged("configuration reloaded", &[("apps", "1")]);
    imds.state().trouble = None;
    imds.state().tags = None;
    agent.logged("cannot read the tags", &[("trouble", "InstanceMetadataTags=enabled")]);
    publish(&broker, "acme/api", "main", 'a');
    agent.did_at_last("start api aaaaaaa");
    imds.tag(&[("instance-agent:app:api", "acme/api@main=api")]);
    agent.logged("can be read again", &[]);
}
