use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::push::Other;
use crate::refs::{Branches, RefRules};
use crate::signature::Secrets;
use crate::trust::Trust;

const NOW: SystemTime = SystemTime::UNIX_EPOCH;
const COMMIT: &str = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

fn app(name: &str, repo: &str, branches: &[&str]) -> Arc<App> {
    let branches = match branches {
        [] => Branches::Default,
        listed => Branches::Listed(listed.iter().map(|branch| branch.parse().unwrap()).collect()),
    };
    Arc::new(App {
        name: name.parse().unwrap(),
        repo: repo.parse().unwrap(),
        refs: RefRules { branches, tags: vec!["v*".parse().unwrap()] },
        ..App::for_test(&[name])
    })
}

fn router() -> Router {
    trusting(Trust::default())
}

fn trusting(trust: Trust) -> Router {
    let apps = [
        app("api", "2lemetry/InstanceAPI", &["main"]),
        app("api-demo", "2lemetry/instanceapi", &["demo", "release/*"]),
        app("web", "2lemetry/Web", &[]),
    ];
    Router::new(TopicPattern::default(), trust, &apps)
}

fn payload(repo: &str, git_ref: &str) -> Value {
    json!({"ref": git_ref, "after": COMMIT, "repository": {"full_name": repo}})
}

fn route(topic: &str, payload: &Value) -> Routed {
    router().route(topic, Headers::default(), payload.to_string().as_bytes(), NOW)
}

/// The names of the apps that the push deploys.
fn deployed(topic: &str, payload: &Value) -> Vec<String> {
    match route(topic, payload) {
        Routed::Push(_, verdicts) => verdicts
            .into_iter()
            .filter(|(_, verdict)| verdict.is_ok())
            .map(|(app, _)| app.to_string())
            .collect(),
        Routed::Ignored(Ignored::Unfollowed(_)) => Vec::new(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_push_deploys_each_app_that_follows_its_ref() {
    let topic = "github/2lemetry/InstanceAPI";
    for (git_ref, expected) in [
        ("refs/heads/main", vec!["api"]),
        ("refs/heads/demo", vec!["api-demo"]),
        ("refs/heads/release/1", vec!["api-demo"]),
        ("refs/heads/main-2", vec![]),
        ("refs/tags/v1", vec!["api", "api-demo"]),
        ("refs/tags/nightly", vec![]),
    ] {
        assert_eq!(deployed(topic, &payload("2lemetry/InstanceAPI", git_ref)), expected, "{git_ref}");
    }
}

/// More may be queued behind any push to a managed repository, so deploys wait.
#[test]
fn a_push_that_deploys_nothing_is_a_managed_push_as_well() {
    let (topic, repo) = ("github/2lemetry/InstanceAPI", "2lemetry/InstanceAPI");
    let is_push = |payload: &Value| route(topic, payload).is_managed_push();
    for git_ref in ["refs/heads/main", "refs/heads/feature", "refs/tags/nightly"] {
        assert!(is_push(&payload(repo, git_ref)), "{git_ref}");
    }
    let mut deletion = payload(repo, "refs/heads/main");
    deletion["after"] = json!("0".repeat(40));
    assert!(is_push(&deletion));
    for other in [json!({"zen": "Keep it logically awesome."}), payload("2lemetry/Other", "refs/heads/main")]
    {
        assert!(!is_push(&other), "{other}");
    }
    assert!(!route("github/2lemetry/Other", &payload(repo, "refs/heads/main")).is_managed_push());
}

#[test]
fn the_topic_is_looked_at_before_the_payload() {
    let router = router();
    for topic in
        ["github/2lemetry/Other", "github/2lemetry", "gitlab/2lemetry/Web", "github/2lemetry/Web/x", ""]
    {
        assert!(!router.manages(topic), "{topic}");
        assert_eq!(router.route(topic, Headers::default(), b"\xff not even JSON", NOW), Routed::Unmanaged);
    }
}

#[test]
fn repository_names_compare_without_regard_to_case() {
    assert!(router().manages("github/2LEMETRY/web"));
    let routed = deployed("github/2LEMETRY/INSTANCEAPI", &payload("2lemetry/instanceapi", "refs/heads/main"));
    assert_eq!(routed, ["api"]);
}

#[test]
fn payload_and_topic_that_disagree_are_rejected() {
    let routed = route("github/2lemetry/Web", &payload("2lemetry/InstanceAPI", "refs/heads/main"));
    assert!(matches!(routed, Routed::Rejected(Rejected::TopicMismatch { .. })), "{routed:?}");
}

#[test]
fn the_default_branch_is_read_from_the_payload() {
    let topic = "github/2lemetry/Web";
    let mut push = payload("2lemetry/Web", "refs/heads/trunk");
    push["repository"]["default_branch"] = json!("trunk");
    assert_eq!(deployed(topic, &push), ["web"]);
    push["repository"]["default_branch"] = json!("main");
    assert_eq!(deployed(topic, &push), [""; 0]);
    push["repository"].as_object_mut().unwrap().remove("default_branch");
    let Routed::Push(_, verdicts) = route(topic, &push) else { panic!() };
    assert_eq!(verdicts[0].1, Err(RefMismatch::NoDefaultBranch));
    push["repository"]["master_branch"] = json!("trunk");
    assert_eq!(deployed(topic, &push), ["web"]);
}

/// GitHub's order is ref, repository, commits; other publishers have others.
#[test]
fn a_body_is_read_no_further_than_its_ref_is_of_interest() {
    let read = |topic: &str, body: &str| match router().route(topic, Headers::default(), body.as_bytes(), NOW)
    {
        Routed::Ignored(Ignored::Unfollowed(git_ref)) => format!("unfollowed {git_ref}"),
        Routed::Rejected(why) => why.kind().to_owned(),
        other => panic!("{other:?}"),
    };
    let listed = "github/2lemetry/InstanceAPI";
    let unfollowed = "unfollowed refs/heads/feature";
    assert_eq!(read(listed, r#"{"ref": "refs/heads/feature", and no JSON at all"#), unfollowed);
    assert_eq!(read(listed, r#"{"x": [1], "ref": "refs/heads/feature", and no JSON"#), unfollowed);
    assert_eq!(read(listed, r#"{"ref": "refs/heads/main", and no JSON"#), "undecodable");
    assert_eq!(read(listed, r#"{"ref": "no ref at all", and no JSON"#), "undecodable");
    assert_eq!(read(listed, r#"{"ref": "refs/heads/feature" and no JSON"#), unfollowed);
    // Which branch is the default branch must be known first.
    let followed = "github/2lemetry/Web";
    assert_eq!(read(followed, r#"{"ref": "refs/heads/feature", and no JSON"#), "undecodable");
    let repository = r#""repository": {"default_branch": "main"}"#;
    assert_eq!(read(followed, &format!(r#"{{"ref": "refs/heads/feature", {repository}, x"#)), unfollowed);
    assert_eq!(read(followed, &format!(r#"{{{repository}, "ref": "refs/heads/feature", x"#)), unfollowed);
    assert_eq!(read(followed, &format!(r#"{{"ref": "refs/heads/main", {repository}, x"#)), "undecodable");
    let nameless = r#"{"ref": "refs/heads/main", "repository": {}, x"#;
    assert_eq!(read(followed, nameless), "undecodable", "who does not name it is told so");
    // Whose signature is asked for is not looked at before.
    let trust = Trust { secrets: Some(Secrets::parse(b"sesame").unwrap()), ..Trust::default() };
    let routed = trusting(trust).route(listed, Headers::default(), br#"{"ref": "refs/heads/feature", "#, NOW);
    assert!(matches!(routed, Routed::Rejected(Rejected::Untrusted(_))), "{routed:?}");
}

#[test]
fn deletions_and_other_events_deploy_nothing() {
    let topic = "github/2lemetry/InstanceAPI";
    let mut deletion = payload("2lemetry/InstanceAPI", "refs/heads/main");
    deletion["deleted"] = json!(true);
    assert_eq!(route(topic, &deletion), Routed::Ignored(Ignored::Deletion));
    let mut zeros = payload("2lemetry/InstanceAPI", "refs/heads/main");
    zeros["after"] = json!("0".repeat(40));
    assert_eq!(route(topic, &zeros), Routed::Ignored(Ignored::Deletion));
    let ping = json!({"zen": "Keep it logically awesome.", "hook_id": 1});
    assert_eq!(route(topic, &ping), Routed::Ignored(Ignored::NotAPush(Other::Shape)));
    let junk = router().route(topic, Headers::default(), b"junk", NOW);
    assert!(matches!(junk, Routed::Rejected(Rejected::Undecodable(_))));
}

/// The header is not covered by GitHub's signature: whoever forges a message could hide it behind another event.
#[test]
fn another_event_is_ignored_only_if_it_is_signed() {
    let secrets = Secrets::parse(b"sesame").unwrap();
    let body = br#"{"zen": "Keep it logically awesome."}"#;
    let signatures = [
        (None, "unsigned"),
        (Some("sha256=00".to_owned()), "forged"),
        (Some(secrets.first().sign(b"another body")), "forged"),
        (Some(secrets.first().sign(body)), "ignored"),
    ];
    let router = trusting(Trust { secrets: Some(secrets), ..Trust::default() });
    for (signature, expected) in signatures {
        let signature = signature.as_deref().map(|it| ("X-Hub-Signature-256", it));
        let headers = Headers::from_pairs([("X-GitHub-Event", "ping")].into_iter().chain(signature)).unwrap();
        let became = match router.route("github/2lemetry/Web", headers, body, NOW) {
            Routed::Rejected(why) => why.kind(),
            Routed::Ignored(Ignored::NotAPush(Other::Event)) => "ignored",
            other => panic!("{other:?}"),
        };
        assert_eq!(became, expected, "{signature:?}");
    }
}

#[test]
fn the_revision_is_what_the_push_says() {
    let mut push = payload("2LEMETRY/InstanceAPI", "refs/heads/main");
    push["before"] = json!("a".repeat(40));
    push["repository"]["pushed_at"] = json!(1_700_000_000);
    let Routed::Push(revision, _) = route("github/2lemetry/InstanceAPI", &push) else { panic!() };
    assert_eq!(revision.repo.as_str(), "2LEMETRY/InstanceAPI");
    assert_eq!(revision.git_ref.name(), "main");
    assert_eq!(revision.commit.as_str(), COMMIT);
    assert_eq!(revision.before.unwrap().as_str(), "a".repeat(40));
    assert!(revision.pushed_at.is_some());
}

#[test]
fn pushes_too_old_or_without_a_date_are_rejected_where_age_counts() {
    let topic = "github/2lemetry/InstanceAPI";
    let limit = Duration::from_secs(3600);
    let router = trusting(Trust { max_push_age: Some(limit), ..Trust::default() });
    let pushed = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
    let route = |payload: &Value, after: Duration| {
        router.route(topic, Headers::default(), payload.to_string().as_bytes(), pushed + after)
    };
    let kind = |routed: Routed| match routed {
        Routed::Rejected(why) => why.kind(),
        Routed::Push(..) => "push",
        other => panic!("{other:?}"),
    };
    let mut push = payload("2lemetry/InstanceAPI", "refs/heads/main");
    assert_eq!(kind(route(&push, Duration::ZERO)), "undated");
    push["repository"]["pushed_at"] = json!(1_700_000_000);
    assert_eq!(kind(route(&push, limit)), "push");
    assert_eq!(kind(route(&push, limit + Duration::from_secs(1))), "too old");
    // What is made by hand counts by its own date, not by the repository's.
    push["instance_agent"] = json!({"id": "0123456789", "time": 1_700_003_600});
    assert_eq!(kind(route(&push, 2 * limit)), "push");
    assert_eq!(kind(route(&push, Duration::from_secs(3300))), "push");
    assert_eq!(kind(route(&push, Duration::from_secs(3299))), "dated ahead");
    assert_eq!(kind(route(&push, 2 * limit + Duration::from_secs(1))), "too old");
}

proptest! {
    #[test]
    fn any_topic_is_routed_without_a_panic(topic in "(github/)?.{0,40}", payload in ".{0,40}") {
        let router = router();
        let managed = router.manages(&topic);
        let routed = router.route(&topic, Headers::default(), payload.as_bytes(), NOW);
        prop_assert_eq!(managed, routed != Routed::Unmanaged);
    }

    #[test]
    fn only_the_topics_of_managed_repositories_are_managed(owner in "[a-zA-Z2]{1,9}", name in "[a-zA-Z]{1,12}") {
        let is_managed = owner.eq_ignore_ascii_case("2lemetry")
            && ["instanceapi", "web"].contains(&name.to_ascii_lowercase().as_str());
        prop_assert_eq!(router().manages(&format!("github/{owner}/{name}")), is_managed);
    }
}
