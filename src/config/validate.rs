//! Fragments → settings: every mistake is found in one go.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::mqtt::{self, MqttSettings, Protocol, TlsSettings};
use crate::service::{CustomManager, ManagerChoice, Template};
use crate::topic::TopicPattern;

use super::checker::{Checker, Within};
use super::error::ConfigErrors;
use super::fragment::{CustomFragment, List, ManagerFragment, MqttFragment, Scalar};
use super::source::{Place, Placed, Sources};
use super::values::{self, BrokerUrl};
use super::{Host, Loaded, Settings, Subscribe, apps, commands, trust};

pub(super) const SECOND: Duration = Duration::from_secs(1);
pub(super) const DAY: Duration = Duration::from_secs(24 * 60 * 60);
/// Where packages put it (FHS 3.0, 5.8); systemd's StateDirectory= makes the same path.
pub(super) const STATE_DIR: &str = "/var/lib/instance-agent";

/// `may_ask`: there is a metadata service, and it may be asked. `unshown`: see [`Loader`](super::Loader).
pub(super) fn settings(
    mut sources: Sources,
    host: &Host,
    may_ask: bool,
    unshown: bool,
) -> Result<Loaded, ConfigErrors> {
    let mut checker = Checker::new(unshown);
    let misplaced: Vec<_> = sources.misplaced().collect();
    for (key, what) in &misplaced {
        checker.error(&what.place, *key, format!("is {}, but must be a mapping", what.value));
    }
    let no_mqtt = misplaced.iter().any(|(key, _)| *key == "mqtt");
    let mqtt = mqtt(&mut checker, &mut sources, no_mqtt, host);
    let topic = checker.or_default(
        "mqtt.topic",
        sources.take_mqtt(|f| &mut f.topic),
        (TopicPattern::default(), "github/+/+"),
        values::parsed,
    );
    let subscribe = checker.or_default(
        "mqtt.subscribe",
        sources.take_mqtt(|f| &mut f.subscribe),
        (Subscribe::Wildcard, "wildcard"),
        |text| values::choice(text, &[("wildcard", Subscribe::Wildcard), ("exact", Subscribe::Exact)]),
    );
    let environment = sources.take(|f| &mut f.environment);
    let environment = checker.optional_or("environment", environment, "none", values::name);
    let service_manager = service_manager(&mut checker, sources.take(|f| &mut f.service_manager));
    let max_parallel =
        checker.or_default("max_parallel", sources.take(|f| &mut f.max_parallel), (4, "4"), |n| {
            values::integer(n, 1, 1000)
        });
    let stagger =
        checker.or_default("stagger", sources.take(|f| &mut f.stagger), (Duration::ZERO, "0s"), |text| {
            values::duration(text, Duration::ZERO, DAY)
        });
    let state_dir = checker.or_default(
        "state_dir",
        sources.take(|f| &mut f.state_dir),
        (PathBuf::from(STATE_DIR), STATE_DIR),
        values::directory,
    );
    let trust = trust::trust(&mut checker, &mut sources, mqtt.as_ref());
    let on_outcome = commands::command(
        &mut checker,
        &"on_outcome",
        commands::NOTICE_TIMEOUT,
        sources.take(|f| &mut f.on_outcome),
    );
    let tags = tags(&mut checker, &mut sources, host, may_ask);
    let apps = apps::apps(&mut checker, &mut sources, environment.as_deref(), (host, tags.are_read));
    let settings = mqtt.zip(service_manager).map(|(mqtt, service_manager)| Settings {
        mqtt,
        topic,
        subscribe,
        environment,
        service_manager,
        max_parallel: max_parallel as usize,
        stagger,
        state_dir,
        trust,
        on_outcome,
        tag_refresh: tags.refresh,
        apps,
    });
    let (settings, shown, warnings) = checker.finish(settings)?;
    Ok(Loaded { settings, shown, warnings })
}

struct TagSettings {
    are_read: bool,
    refresh: Option<Duration>,
}

fn tags(checker: &mut Checker, sources: &mut Sources, host: &Host, may_ask: bool) -> TagSettings {
    let field = sources.take_ec2(|f| &mut f.tags);
    let place = field.as_ref().map(|field| field.place.clone());
    let wanted = checker.or_default("ec2.tags", field, (false, "false"), values::boolean);
    let refresh = sources.take_ec2(|f| &mut f.refresh);
    let refresh = checker.or_default("ec2.refresh", refresh, (60 * SECOND, "1m"), refresh_pause);
    let are_read = wanted && may_ask;
    if let (true, false, Some(place)) = (wanted, are_read, place) {
        let why = if host.platform.is_ec2 {
            "no tags are read, as AWS_EC2_METADATA_DISABLED is true: unset it, or do without tags"
        } else {
            "this does not look like an EC2 instance, so no tags are read; if it is one, pass --ec2"
        };
        checker.warnings.push(format!("{place}: ec2.tags: {why}"));
    }
    TagSettings { are_read, refresh: Some(refresh).filter(|pause| are_read && !pause.is_zero()) }
}

fn refresh_pause(scalar: &Scalar) -> Result<Duration, String> {
    let pause = values::duration(scalar, Duration::ZERO, DAY)?;
    let allowed = pause.is_zero() || pause >= SECOND;
    if allowed { Ok(pause) } else { Err("must be from 1s to 1d, or 0 for never".to_owned()) }
}

/// `misplaced`: there is an `mqtt` that is no mapping, so what it would have held is not missing.
fn mqtt(checker: &mut Checker, sources: &mut Sources, misplaced: bool, host: &Host) -> Option<MqttSettings> {
    let place = sources.mqtt_place();
    let url = sources.take_mqtt(|f| &mut f.url);
    if url.is_none() && !misplaced {
        let problem = "is missing: the broker, as mqtts://HOST[:PORT] or mqtt://HOST[:PORT]";
        checker.error(&place, "mqtt.url", problem);
    }
    let url = checker.optional("mqtt.url", url, |text| values::text(text)?.parse::<BrokerUrl>());
    let protocol = checker.or_default(
        "mqtt.protocol",
        sources.take_mqtt(|f| &mut f.protocol),
        (Protocol::V5, "5"),
        |text| values::choice(text, &[("5", Protocol::V5), ("3.1.1", Protocol::V311)]),
    );
    let client_id = client_id(checker, sources, host);
    let (username, password_file) = login(checker, sources);
    let keep_alive = checker.or_default(
        "mqtt.keep_alive",
        sources.take_mqtt(|f| &mut f.keep_alive),
        (30 * SECOND, "30s"),
        |text| values::duration(text, 5 * SECOND, u32::from(u16::MAX) * SECOND),
    );
    let session_expiry = checker.or_default(
        "mqtt.session_expiry",
        sources.take_mqtt(|f| &mut f.session_expiry),
        (DAY, "1d"),
        |text| values::duration(text, 60 * SECOND, (u32::MAX - 1) * SECOND),
    );
    let max_payload = checker.or_default(
        "mqtt.max_payload",
        sources.take_mqtt(|f| &mut f.max_payload),
        (32 << 20, "32MiB"),
        |text| values::size(text, 1 << 10, 128 << 20),
    );
    let tls = tls(checker, sources, url.as_ref());
    let BrokerUrl { host, port, .. } = url?;
    Some(MqttSettings {
        host,
        port,
        tls,
        protocol,
        client_id: client_id?,
        username,
        password_file,
        keep_alive,
        session_expiry,
        max_payload,
    })
}

fn client_id(checker: &mut Checker, sources: &mut Sources, host: &Host) -> Option<String> {
    let key = "mqtt.client_id";
    let field = sources.take_mqtt(|f| &mut f.client_id);
    let Some(id) = host.id() else {
        let problem = "is missing: it would be made of the instance's id, which neither the metadata service nor the \
                       firmware tells; set it";
        return checker.required(key, field, (&sources.mqtt_place(), problem), any_client_id);
    };
    let default = format!("instance-agent-{id}");
    Some(checker.or_default(key, field, (default.clone(), &default), any_client_id))
}

/// MQTT 5.0, 3.1.3.1: a client identifier is a string of at most 65,535 bytes; brokers allow far less.
fn any_client_id(scalar: &Scalar) -> Result<String, String> {
    let id = values::text(scalar)?;
    if id.len() <= 256 { Ok(id) } else { Err("is longer than 256 bytes".to_owned()) }
}

fn any_username(scalar: &Scalar) -> Result<String, String> {
    let name = values::text(scalar)?;
    let too_long = || format!("is longer than {} bytes, the most that MQTT can carry", mqtt::MAX_STRING);
    if name.len() <= mqtt::MAX_STRING { Ok(name) } else { Err(too_long()) }
}

fn login(checker: &mut Checker, sources: &mut Sources) -> (Option<String>, Option<PathBuf>) {
    let username =
        checker.optional_or("mqtt.username", sources.take_mqtt(|f| &mut f.username), "none", any_username);
    let password_file = sources.take_mqtt(|f| &mut f.password_file);
    if let (Some(password_file), None) = (&password_file, &username) {
        checker.error(&password_file.place, "mqtt.password_file", "needs mqtt.username beside it");
    }
    let key = "mqtt.password_file";
    let password_file = checker
        .optional_or(key, password_file, "none", |path| usable_file(path, key, mqtt::check_password_file));
    (username, password_file)
}

/// The path of a file that a connection could use now.
fn usable_file(
    scalar: &Scalar,
    key: &str,
    check: fn(&Path) -> Result<(), String>,
) -> Result<PathBuf, String> {
    let path = values::readable_file(scalar)?;
    // The key stands before the problem already.
    check(&path).map_err(|problem| problem.replacen(&format!("{key} "), "", 1))?;
    Ok(path)
}

fn tls(checker: &mut Checker, sources: &mut Sources, url: Option<&BrokerUrl>) -> Option<TlsSettings> {
    let mut any = None;
    let mut file =
        |key, field: fn(&mut MqttFragment) -> &mut super::fragment::Field<Scalar>, absent, check| {
            let placed = sources.take_mqtt(field);
            let place = placed.as_ref().map(|placed| placed.place.clone());
            any = any.take().or_else(|| place.clone().map(|place| (key, place)));
            (checker.optional_or(key, placed, absent, |path| usable_file(path, key, check)), place)
        };
    let roots = if url.is_some_and(|url| url.tls) { "the system's roots" } else { "none" };
    let (ca_file, _) = file("mqtt.ca_file", |f| &mut f.ca_file, roots, mqtt::check_ca_file);
    let (cert_file, cert_place) = file("mqtt.cert_file", |f| &mut f.cert_file, "none", mqtt::check_cert_file);
    let (key_file, key_place) = file("mqtt.key_file", |f| &mut f.key_file, "none", mqtt::check_key_file);
    match (cert_place, key_place) {
        (Some(place), None) => checker.error(&place, "mqtt.cert_file", "needs mqtt.key_file beside it"),
        (None, Some(place)) => checker.error(&place, "mqtt.key_file", "needs mqtt.cert_file beside it"),
        (Some(place), Some(_)) => check_pair(checker, &place, cert_file.as_deref(), key_file.as_deref()),
        (None, None) => {}
    }
    let alpn = sources.take_mqtt(|f| &mut f.alpn);
    any = any.or_else(|| alpn.as_ref().map(|alpn| ("mqtt.alpn", alpn.place.clone())));
    let alpn = checker.optional_or("mqtt.alpn", alpn, "none", values::alpn);
    match (url, any) {
        (Some(BrokerUrl { tls: false, .. }), Some((key, place))) => {
            checker.error(&place, key, "needs a broker with TLS: mqtt.url must begin with mqtts://");
            None
        }
        (Some(BrokerUrl { tls: true, .. }), _) => Some(TlsSettings { ca_file, cert_file, key_file, alpn }),
        _ => None,
    }
}

fn check_pair(checker: &mut Checker, place: &Place, cert: Option<&Path>, key: Option<&Path>) {
    let pair = cert.zip(key).map_or(Ok(()), |(cert, key)| mqtt::check_pair(cert, key));
    if let Err(problem) = pair {
        checker.error(place, "mqtt.cert_file", problem.replacen("mqtt.cert_file ", "", 1));
    }
}

pub(super) fn service_manager(
    checker: &mut Checker,
    field: Option<Placed<ManagerFragment>>,
) -> Option<ManagerChoice> {
    let name = match field {
        Some(Placed { value: ManagerFragment::Custom(custom), place }) => {
            return custom_manager(checker, &place, *custom).map(ManagerChoice::Custom);
        }
        Some(Placed { value: ManagerFragment::Name(value), place }) => Some(Placed { value, place }),
        None => None,
    };
    let known = [("auto", Known::Auto), ("systemd", Known::Systemd), ("upstart", Known::Upstart)];
    let choice = checker.or_default("service_manager", name, (Known::Auto, "auto"), |text| {
        values::choice(text, &known)
            .map_err(|problem| format!("{problem}, or a mapping with name, stop, start and status"))
    });
    Some(match choice {
        Known::Auto => ManagerChoice::Auto,
        Known::Systemd => ManagerChoice::Systemd,
        Known::Upstart => ManagerChoice::Upstart,
    })
}

#[derive(Clone, Copy)]
enum Known {
    Auto,
    Systemd,
    Upstart,
}

fn custom_manager(checker: &mut Checker, place: &Place, custom: CustomFragment) -> Option<CustomManager> {
    let name = custom.name.map(|name| Placed::of(&place.source, name));
    let missing = "is missing: what logs shall call this service manager";
    let name = checker.required("service_manager.name", name, (place, missing), values::name);
    let mut template = |key: &str, argv: super::fragment::Field<List<Scalar>>| {
        let key = &Within("service_manager", key);
        let Some(argv) = argv.map(|argv| Placed::of(&place.source, argv)) else {
            checker.error(
                place,
                key,
                "is missing: a command as a list, such as [rc-service, \"{service}\", stop]",
            );
            return None;
        };
        let at = argv.place.clone();
        let argv = commands::argv(checker, key, argv)?;
        checker.show(&at, key, format_args!("{argv:?}"));
        Template::new(argv).map_err(|problem| checker.error(&at, key, problem.to_string())).ok()
    };
    let stop = template("stop", custom.stop);
    let start = template("start", custom.start);
    let status = template("status", custom.status);
    Some(CustomManager { name: name?, stop: stop?, start: start?, status: status? })
}
