//! Which sources are asked, and what their silence means.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use instance_agent::config::{Flags, Host, LoadError, Loaded, Loader, Request};
use instance_agent::ec2::Platform;
use tempfile::TempDir;

use crate::support::free_port;
use crate::support::imds::{INSTANCE_ID, Imds, Trouble};

const APPS: &str = "apps: [{repo: acme/api, service: api}]\n";
const COMPLETE: &str = "mqtt: {url: mqtt://localhost}\napps: [{repo: acme/api, service: api}]\n";
const LIMIT: Duration = Duration::from_secs(1);

/// A host with a configuration file, which may be missing.
struct Case {
    directory: TempDir,
    flags: Flags,
    platform: Platform,
}

impl Case {
    fn new(platform: Platform) -> Self {
        Self { directory: tempfile::tempdir().unwrap(), flags: Flags::default(), platform }
    }

    fn file(self, text: &str) -> Self {
        std::fs::write(self.path(), text).unwrap();
        self
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("config.yaml")
    }

    fn loader(&self, endpoint: Option<&str>) -> Loader {
        let host =
            Host { machine: "machine".to_owned(), platform: self.platform.clone(), own_units: Vec::new() };
        let file = self.path().exists().then(|| self.path());
        Loader::new(Request { file, flags: self.flags.clone() }, host, endpoint).unwrap()
    }

    async fn load(&self, imds: &Imds) -> Result<Loaded, LoadError> {
        self.loader(Some(&imds.endpoint())).load(LIMIT).await
    }
}

fn nitro() -> Platform {
    Platform { is_ec2: true, instance_id: Some("i-1a2b3c4d".parse().unwrap()) }
}

fn xen() -> Platform {
    Platform { is_ec2: true, instance_id: None }
}

fn shown(loaded: &Loaded, key: &str) -> String {
    let shown = loaded.shown.iter().find(|it| it.key == key).unwrap_or_else(|| panic!("no {key}"));
    format!("{} {}", shown.value, shown.place)
}

#[tokio::test]
async fn off_ec2_nothing_is_asked() {
    let imds = Imds::with_user_data("#instance-agent\nenvironment: demo\n");
    let loaded = Case::new(Platform::default()).file(COMPLETE).load(&imds).await.unwrap();
    assert_eq!(loaded.settings.mqtt.client_id, "instance-agent-machine");
    let tags = format!("{COMPLETE}ec2: {{tags: true}}\n");
    let loaded = Case::new(Platform::default()).file(&tags).load(&imds).await.unwrap();
    assert!(loaded.warnings.iter().any(|it| it.contains("does not look like an EC2 instance")), "{loaded:?}");
    assert_eq!(loaded.settings.tag_refresh, None);
    let nothing = Case::new(Platform::default()).load(&imds).await.unwrap_err();
    assert!(nothing.to_string().contains("user-data: not read, as this does not look like"), "{nothing}");
    assert_eq!(imds.state().requests.len(), 0);
    let mut asked = Case::new(Platform::default()).file(COMPLETE);
    asked.flags.ec2 = true;
    assert_eq!(shown(&asked.load(&imds).await.unwrap(), "environment"), "demo user-data (#instance-agent):2");
}

#[tokio::test]
async fn the_metadata_service_may_be_disabled() {
    let complete = Case::new(nitro()).file(COMPLETE);
    let loaded = complete.loader(None).load(LIMIT).await.unwrap();
    assert_eq!(loaded.settings.mqtt.client_id, "instance-agent-i-1a2b3c4d");
    let nothing = Case::new(nitro()).loader(None).load(LIMIT).await.unwrap_err();
    assert!(nothing.to_string().contains("AWS_EC2_METADATA_DISABLED is true"), "{nothing}");
    // No tag will ever come, which must not look like waiting for one.
    let tags = Case::new(nitro()).file("mqtt: {url: mqtt://localhost}\nec2: {tags: true}\n");
    let no_apps = tags.loader(None).load(LIMIT).await.unwrap_err().to_string();
    assert!(no_apps.contains("apps: is missing"), "{no_apps}");
    let tags = Case::new(nitro()).file(&format!("{COMPLETE}ec2: {{tags: true}}\n"));
    let loaded = tags.loader(None).load(LIMIT).await.unwrap();
    let warning = "config.yaml:3: ec2.tags: no tags are read, as AWS_EC2_METADATA_DISABLED is true";
    assert!(loaded.warnings.iter().any(|it| it.contains(warning)), "{:?}", loaded.warnings);
    assert_eq!(loaded.settings.tag_refresh, None);
}

#[tokio::test]
async fn user_data_with_tags_is_not_complete_while_tags_are_denied() {
    let imds = Imds::with_user_data("#instance-agent\nmqtt: {url: mqtt://broker}\nec2: {tags: true}\n");
    let pass = || Trouble::Slow(Duration::ZERO);
    imds.state().troubles = [pass(), pass(), Trouble::Status(403)].into();
    let denied = Case::new(nitro()).load(&imds).await.unwrap_err();
    assert!(denied.to_string().contains("403"), "{denied}");
}

#[tokio::test]
async fn no_more_is_asked_than_is_needed() {
    let imds = Imds::start();
    Case::new(nitro()).file(COMPLETE).load(&imds).await.unwrap();
    assert_eq!(imds.state().requests, ["PUT /latest/api/token", "GET /latest/user-data"]);
    let loaded = Case::new(xen()).file(COMPLETE).load(&imds).await.unwrap();
    assert_eq!(loaded.settings.mqtt.client_id, format!("instance-agent-{INSTANCE_ID}"));
    assert_eq!(imds.state().requests[4..], ["GET /latest/meta-data/instance-id"]);
}

#[tokio::test]
async fn sources_have_their_order() {
    let user_data = "#cloud-config\ninstance_agent:\n  mqtt: {url: mqtt://of-user-data, username: agent}\n  \
                     environment: user-data\n  max_parallel: 7\n  stagger: 1s\n  ec2: {tags: true, refresh: 2m}\n  \
                     apps: [{repo: acme/lower, service: lower}]\n";
    let imds = Imds::with_user_data(user_data);
    imds.tag(&[
        ("instance-agent:environment", "tag"),
        ("instance-agent:app:api", "acme/api@of-tag=api"),
        ("instance-agent:app:web", "acme/web=nginx"),
        ("instance-agent:broker", "mqtt://of-tag"),
    ]);
    let mut case = Case::new(nitro()).file(
        "mqtt: {url: mqtt://of-file}\nenvironment: file\nstagger: 3s\n\
         apps:\n- {repo: acme/api, service: api}\n- {repo: acme/file, services: [file]}\n",
    );
    let loaded = case.load(&imds).await.unwrap();
    let file = case.path().display().to_string();
    assert_eq!(shown(&loaded, "mqtt.url"), format!("mqtt://of-file {file}:1"));
    assert_eq!(shown(&loaded, "mqtt.username"), "agent user-data (#cloud-config):3");
    assert_eq!(shown(&loaded, "max_parallel"), "7 user-data (#cloud-config):5");
    assert_eq!(shown(&loaded, "stagger"), format!("3s {file}:3"));
    assert_eq!(shown(&loaded, "ec2.refresh"), "2m user-data (#cloud-config):7");
    assert_eq!(shown(&loaded, "environment"), "tag tag instance-agent:environment");
    assert_eq!(shown(&loaded, "mqtt.client_id"), "instance-agent-i-1a2b3c4d default");
    assert_eq!(shown(&loaded, "apps[1].branch"), "of-tag tag instance-agent:app:api");
    assert_eq!(names(&loaded), ["file", "api", "web"]);
    assert!(loaded.warnings.iter().any(|it| it.starts_with("tag instance-agent:broker: no such tag")));
    assert_eq!(loaded.settings.tag_refresh, Some(Duration::from_secs(120)));
    case.flags = Flags {
        environment: Some("flag".to_owned()),
        apps: vec!["acme/flag=flag".to_owned(), "acme/flag=api".to_owned()],
        ..Flags::default()
    };
    let loaded = case.load(&imds).await.unwrap();
    assert_eq!(shown(&loaded, "environment"), "flag --environment");
    assert_eq!(names(&loaded), ["flag", "api", "web"]);
    assert_eq!(shown(&loaded, "apps[1].repo"), "acme/flag --app");
}

fn names(loaded: &Loaded) -> Vec<&str> {
    loaded.settings.apps.iter().map(|app| app.name.as_str()).collect()
}

#[tokio::test]
async fn a_host_that_can_do_without_the_metadata_service_does() {
    for trouble in [Trouble::Status(403), Trouble::Silent, Trouble::Status(503)] {
        let imds = Imds::start();
        imds.state().trouble = Some(trouble);
        let loaded = Case::new(nitro()).file(COMPLETE).load(&imds).await.unwrap();
        assert!(loaded.warnings[0].contains("the instance metadata service"), "{:?}", loaded.warnings);
        let no_id = Case::new(xen()).file(COMPLETE).load(&imds).await.unwrap_err().to_string();
        assert!(no_id.contains("mqtt.client_id: is missing"), "{no_id}");
        let named = format!("mqtt: {{url: mqtt://localhost, client_id: x}}\n{APPS}");
        let named = Case::new(xen()).file(&named);
        assert!(named.load(&imds).await.is_ok());
    }
}

#[tokio::test]
async fn a_host_that_cannot_waits_and_then_says_what_is_missing() {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Status(503));
    let begun = Instant::now();
    let error = Case::new(nitro()).file(APPS).load(&imds).await.unwrap_err();
    assert!(begun.elapsed() < 3 * LIMIT, "{:?}", begun.elapsed());
    let LoadError::Metadata { trouble, without: Some(errors) } = &error else { panic!("{error:?}") };
    assert!(trouble.may_pass());
    assert!(errors.to_string().contains("mqtt.url: is missing"), "{errors}");
    // What its apps are is unknown, so they must not be taken for removed.
    let tags = format!("{COMPLETE}ec2: {{tags: true}}\n");
    let error = Case::new(nitro()).file(&tags).load(&imds).await.unwrap_err();
    assert!(matches!(error, LoadError::Metadata { without: None, .. }), "{error:?}");
    assert!(matches!(Case::new(nitro()).load(&imds).await.unwrap_err(), LoadError::Metadata { .. }));
}

#[tokio::test]
async fn what_was_switched_off_on_purpose_is_no_configuration_and_anything_else_is_trouble() {
    let imds = Imds::start();
    imds.state().trouble = Some(Trouble::Status(403));
    let nothing = Case::new(nitro()).load(&imds).await.unwrap_err();
    assert!(matches!(nothing, LoadError::Unconfigured(_)), "{nothing:?}");
    assert!(nothing.to_string().contains("user-data: the instance metadata service is off"), "{nothing}");
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let begun = Instant::now();
    let refused = Case::new(nitro()).loader(Some(&nobody)).load(LIMIT).await.unwrap_err();
    let LoadError::Metadata { trouble, .. } = &refused else { panic!("{refused:?}") };
    assert!(trouble.may_pass() && begun.elapsed() > LIMIT / 2, "{:?}", begun.elapsed());
    imds.state().trouble = Some(Trouble::Status(418));
    let odd = Case::new(nitro()).load(&imds).await.unwrap_err();
    assert!(matches!(odd, LoadError::Metadata { .. }), "{odd:?}");
}

#[tokio::test]
async fn what_was_not_answered_is_asked_for_until_it_is() {
    let imds = Imds::with_user_data("#instance-agent\nmax_parallel: 7\n");
    imds.state().trouble = Some(Trouble::Status(403));
    let case = Case::new(nitro()).file(COMPLETE);
    let mut loader = case.loader(Some(&imds.endpoint()));
    loader.load(LIMIT).await.unwrap();
    // One question each time, for it may be long until there is an answer.
    for trouble in [Trouble::Status(403), Trouble::Status(503), Trouble::Closed] {
        imds.state().trouble = Some(trouble);
        let asked = imds.state().requests.len();
        assert!(loader.look(LIMIT).await.is_err() && loader.awaits_metadata() && !loader.has_news());
        assert_eq!(imds.state().requests.len(), asked + 1, "{trouble:?}");
    }
    imds.state().trouble = None;
    loader.look(LIMIT).await.unwrap();
    assert!(!loader.awaits_metadata() && loader.has_news());
    assert_eq!(loader.load(LIMIT).await.unwrap().settings.max_parallel, 7);
    loader.taken_over();
    loader.look(LIMIT).await.unwrap();
    assert!(!loader.has_news());
    assert_eq!(imds.requests("user-data"), 1);
}

#[tokio::test]
async fn tags_are_news_until_a_configuration_with_them_is_in_force() {
    let imds = Imds::start();
    imds.tag(&[]);
    let case = Case::new(nitro()).file(&format!("{COMPLETE}ec2: {{tags: true}}\n"));
    let mut loader = case.loader(Some(&imds.endpoint()));
    loader.load(LIMIT).await.unwrap();
    loader.taken_over();
    imds.tag(&[("instance-agent:app:web", "acme/web=nginx")]);
    std::fs::write(case.path(), format!("{COMPLETE}ec2: {{tags: true}}\nmax_parallel: 0\n")).unwrap();
    loader.load(LIMIT).await.unwrap_err();
    assert!(loader.has_news());
    loader.look(LIMIT).await.unwrap();
    assert!(loader.has_news(), "what was read once is still not in force");
    std::fs::write(case.path(), format!("{COMPLETE}ec2: {{tags: true}}\n")).unwrap();
    assert_eq!(names(&loader.load(LIMIT).await.unwrap()), ["api", "web"]);
}

#[tokio::test]
async fn a_broken_cloud_config_of_others_is_no_error_beside_a_file() {
    let broken = "#cloud-config\nruncmd: [instance_agent]\nhunter2: 1\nhunter2: 2\n";
    let imds = Imds::with_user_data(broken);
    let loaded = Case::new(nitro()).file(COMPLETE).load(&imds).await.unwrap();
    let [warning] = &loaded.warnings[..] else { panic!("{:?}", loaded.warnings) };
    assert!(warning.starts_with("user-data is not used: it is a #cloud-config"), "{warning}");
    let alone = Case::new(nitro()).load(&imds).await.unwrap_err().to_string();
    assert!(alone.starts_with("user-data: is a #cloud-config with instance_agent in it, but"), "{alone}");
    assert!(!alone.contains("hunter2") && !warning.contains("hunter2"), "{alone}\n{warning}");
}

#[tokio::test]
async fn user_data_of_others_is_no_error_unless_nothing_else_is_there() {
    let (script, noise) = (b"#!/bin/sh\nexport PASSWORD=hunter2\n".to_vec(), b"\x00\xff\xfe".to_vec());
    for user_data in [script.clone(), noise.clone()] {
        let imds = Imds::with_user_data(user_data);
        assert!(Case::new(nitro()).file(COMPLETE).load(&imds).await.is_ok());
    }
    let nothing = Case::new(nitro()).load(&Imds::with_user_data(script)).await.unwrap_err().to_string();
    assert!(
        nothing.starts_with("not configured: flags: none; /etc/instance-agent/config.yaml:"),
        "{nothing}"
    );
    assert!(nothing.ends_with("; user-data: a script (#!)") && !nothing.contains("hunter2"), "{nothing}");
    let damaged = Case::new(nitro()).load(&Imds::with_user_data(noise)).await.unwrap_err();
    assert!(matches!(damaged, LoadError::Invalid(_)), "{damaged:?}");
    assert_eq!(damaged.to_string(), "user-data: is binary data in no form that is known");
    let wrong = Imds::with_user_data("#instance-agent\nmqtt: {url: nowhere}\nec2: true\n");
    let wrong = Case::new(nitro()).load(&wrong).await.unwrap_err().to_string();
    for line in [
        "user-data (#instance-agent): apps: is missing",
        "user-data (#instance-agent):2: mqtt.url: must be",
        "user-data (#instance-agent):3: ec2: is true or false, but must be a mapping",
    ] {
        assert!(wrong.lines().any(|it| it.starts_with(line)), "{line}\n{wrong}");
    }
}

/// A misspelt `instance_agent:` would be looked for in vain among flags and tags.
#[tokio::test]
async fn what_is_missing_without_a_document_is_told_beside_what_user_data_is() {
    let imds = Imds::with_user_data("#cloud-config\ninstance-agent: {mqtt: {url: mqtt://localhost}}\n");
    let mut case = Case::new(nitro());
    case.flags.ec2_tags = true;
    let missing = case.load(&imds).await.unwrap_err().to_string();
    assert!(missing.contains("mqtt.url: is missing"), "{missing}");
    let hint = "user-data: gives nothing: it is a #cloud-config without instance_agent:";
    assert!(missing.lines().any(|line| line == hint), "{missing}");
    // Beside a document it may be as it is meant.
    let beside = Case::new(nitro()).file(APPS).load(&imds).await.unwrap_err().to_string();
    assert!(!beside.contains("user-data"), "{beside}");
    let none = case.load(&Imds::start()).await.unwrap_err().to_string();
    assert!(!none.contains("user-data"), "{none}");
}

#[tokio::test]
async fn with_tags_no_app_is_needed_and_tags_may_be_off() {
    let imds = Imds::start();
    let file = "mqtt: {url: mqtt://localhost}\nec2: {tags: true, refresh: 0}\n";
    let loaded = Case::new(nitro()).file(file).load(&imds).await.unwrap();
    assert!(loaded.warnings[0].contains("InstanceMetadataTags=enabled"), "{:?}", loaded.warnings);
    assert_eq!(loaded.settings.tag_refresh, None);
    imds.tag(&[]);
    let loaded = Case::new(nitro()).file(file).load(&imds).await.unwrap();
    assert_eq!(loaded.warnings, ["no app yet: the agent waits for tags instance-agent:app:NAME"]);
}

#[tokio::test]
async fn mistakes_in_tags_name_the_tag_and_can_be_mended_from_afar() {
    let imds = Imds::start();
    let mut case = Case::new(Platform::default()).file("mqtt: {url: mqtt://localhost}\n");
    case.flags.ec2_tags = true;
    for (key, value, mistake) in [
        (
            "instance-agent:environment",
            "a b",
            "tag instance-agent:environment: environment: \"a b\": must be",
        ),
        ("instance-agent:environment", "", "tag instance-agent:environment: environment: is empty"),
        ("instance-agent:app:x", "acme=x", "tag instance-agent:app:x: apps[0].repo: \"acme\""),
        ("instance-agent:app:x", "acme/api", "tag instance-agent:app:x: its value must be"),
        ("instance-agent:app:x", "acme/api@a b=x", "tag instance-agent:app:x: apps[0].branch: \"a b\""),
        ("instance-agent:app:-", "acme/api=x", "tag instance-agent:app:-: \"-\": must be letters"),
    ] {
        imds.tag(&[(key, value)]);
        let LoadError::Invalid(errors) = case.load(&imds).await.unwrap_err() else { panic!("{key}") };
        assert!(errors.of_tags() && errors.to_string().starts_with(mistake), "{key} {value}: {errors}");
    }
    imds.state().user_data = Some(b"#instance-agent\nec2: {tags: false}\n".to_vec());
    assert!(case.load(&imds).await.is_err(), "a flag stands above user-data");
}

/// Nobody may take it for gone because nobody answers.
#[tokio::test]
async fn a_mistake_in_user_data_stands_until_it_is_read_again() {
    let imds = Imds::with_user_data("#instance-agent\nbroker: x\n");
    let case = Case::new(nitro()).file(COMPLETE);
    let mut loader = case.loader(Some(&imds.endpoint()));
    assert!(matches!(loader.load(LIMIT).await, Err(LoadError::Invalid(_))));
    assert_eq!(imds.requests("user-data"), 1);
    imds.state().trouble = Some(Trouble::Status(503));
    assert!(matches!(loader.load(LIMIT).await, Err(LoadError::Invalid(_))));
    assert_eq!(imds.requests("user-data"), 2, "asked once more");
    imds.state().trouble = None;
    imds.state().user_data = Some(b"#instance-agent\nmax_parallel: 7\n".to_vec());
    assert_eq!(shown(&loader.load(LIMIT).await.unwrap(), "max_parallel"), "7 user-data (#instance-agent):2");
    loader.load(LIMIT).await.unwrap();
    assert_eq!(imds.requests("user-data"), 3, "what is right is not asked for again");
}
