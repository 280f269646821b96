//! `check --message`: what becomes of a message, and why.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::payload::{Push, commit};
use crate::{Directory, MANAGER, agent, agent_given, beside_apps, errors, words};

const APPS: &str = "
environment: demo
apps:
- {name: exact, repo: acme/api, service: s1, branch: main}
- {name: glob, repo: acme/api, service: s2, branch: \"release/*\"}
- {name: default, repo: acme/api, service: s3}
- {name: tags, repo: acme/api, service: s4, tags: \"v*\"}
- {name: here, repo: acme/api, service: s5, branch: {demo: demo, production: main}}
- {name: elsewhere, repo: acme/api, service: s6, branch: {production: main}}
";

/// What `check --message` answers: its exit code and its words.
fn answer(topic: &str, payload: &[u8], headers: &[&str]) -> (i32, String) {
    let text = format!("mqtt: {{url: mqtt://localhost}}\n{MANAGER}\n{APPS}");
    let file = Directory::new().write_kept("config.yaml", &text);
    let mut arguments = vec!["check", "--config", file.to_str().unwrap(), "--topic", topic, "--message", "-"];
    for header in headers {
        arguments.extend(["--header", header]);
    }
    let output = agent_given(&arguments, payload);
    assert!(output.stderr.is_empty(), "{output:?}");
    (output.status.code().unwrap(), words(&output))
}

/// The apps that the message deploys, and those that it does not.
fn verdicts(payload: &[u8], headers: &[&str]) -> (Vec<String>, Vec<String>) {
    let (code, text) = answer("github/acme/api", payload, headers);
    assert_eq!(code, 0, "{text}");
    assert!(text.starts_with("A push of "), "{text}");
    let names = |part: &str| {
        let named = text.lines().filter(|line| line.contains(part));
        named.map(|line| line.split(':').next().unwrap().to_owned()).collect()
    };
    (names(": deployed"), names(": not deployed"))
}

fn deployed_by(payload: &[u8]) -> Vec<String> {
    let (deployed, others) = verdicts(payload, &[]);
    assert_eq!(deployed.len() + others.len(), 5, "one app is not managed here");
    deployed
}

#[test]
fn a_message_deploys_by_branch_and_tag() {
    let push = Push::new("acme/api", 'a');
    for (push, expected) in [
        (push.clone(), &["exact", "default"][..]),
        (push.clone().to("main-2"), &[]),
        (push.clone().to("Main"), &[]),
        (push.clone().to("release/1"), &["glob"]),
        (push.clone().to("release/1/2"), &[]),
        (push.clone().to("demo"), &["here"]),
        (push.clone().tag("v1"), &["tags"]),
        (push.clone().tag("main"), &[]),
        (Push { git_ref: "refs/pull/1/head".to_owned(), ..push.clone() }, &[]),
        (Push { default_branch: Some("trunk".to_owned()), ..push.clone() }.to("trunk"), &["default"]),
        (Push { default_branch: Some("trunk".to_owned()), ..push.clone() }, &["exact"]),
        (Push { default_branch: None, ..push.clone() }, &["exact"]),
    ] {
        assert_eq!(deployed_by(&push.bytes()), expected, "{push:?}");
    }
    let (_, text) = answer("github/acme/api", &Push { default_branch: None, ..push.clone() }.bytes(), &[]);
    assert!(text.contains("default: not deployed") && text.contains("set `branch`"), "{text}");
    let mut old = push.json();
    old["repository"].as_object_mut().unwrap().remove("default_branch");
    assert_eq!(deployed_by(old.to_string().as_bytes()), ["exact", "default"], "by master_branch");
}

#[test]
fn what_the_agent_does_not_read_is_explained_all_the_same() {
    let mut cut_short = Push::new("acme/api", 'a').to("main-2").bytes();
    cut_short.truncate(cut_short.len() - 10);
    let (code, text) = answer("github/acme/api", &cut_short, &[]);
    let ignored = "Ignored: no app follows refs/heads/main-2. To another ref it would be rejected: ";
    assert!(code == 0 && text.starts_with(ignored) && text.contains("cut short"), "{text}");
}

#[test]
fn names_of_repositories_and_headers_have_no_case() {
    let push = Push::new("ACME/Api", 'a').bytes();
    let (code, text) = answer("github/Acme/API", &push, &["x-github-EVENT: push"]);
    assert!(code == 0 && text.contains("exact: deployed"), "{text}");
    let (code, text) = answer("github/Acme/API", &push, &["x-github-EVENT: issues"]);
    assert!(code == 0 && text.contains("X-GitHub-Event is not push"), "{text}");
}

#[test]
fn deletions_and_other_events_deploy_nothing() {
    let push = Push::new("acme/api", 'a');
    for gone in [Push { deleted: true, ..push.clone() }, Push { after: commit('0'), ..push.clone() }] {
        let (code, text) = answer("github/acme/api", &gone.bytes(), &[]);
        assert!(code == 0 && text.contains("Ignored: the ref was deleted"), "{text}");
    }
    for (payload, headers, part) in [
        (push.bytes(), &["X-GitHub-Event: workflow_run"][..], "X-GitHub-Event is not push"),
        (b"{\"zen\":\"Design for failure.\"}".to_vec(), &[], "not a push"),
        (Vec::new(), &[], "the payload is empty"),
    ] {
        let (code, text) = answer("github/acme/api", &payload, headers);
        assert!(code == 0 && text.starts_with("Ignored: ") && text.contains(part), "{text}");
    }
    for topic in ["gitlab/acme/api", "github/acme", "github/acme/api/x", "GitHub/acme/api"] {
        let (code, text) = answer(topic, b"junk", &[]);
        let told = "Not received: the topic does not fit mqtt.topic, which is github/+/+.";
        assert!(code == 0 && text.starts_with(told), "{text}");
    }
    let (code, text) = answer("github/acme/other", b"junk", &[]);
    assert!(code == 0 && text.contains("no app here is of the repository"), "{text}");
}

#[test]
fn messages_that_contradict_themselves_are_rejected() {
    let push = Push::new("acme/api", 'a');
    let number = |key: &str, value: Value| {
        let mut json = push.json();
        json[key] = value;
        json.to_string().into_bytes()
    };
    for (payload, headers, part) in [
        (Push::new("acme/web", 'a').bytes(), &[][..], "the payload is for acme/web, the topic for acme/api"),
        (b"junk".to_vec(), &[], "not the JSON object of a push"),
        (b"[1]".to_vec(), &[], "no object"),
        (push.bytes()[..2000].to_vec(), &[], "cut short"),
        (number("after", json!(5)), &[], "wrong type"),
        (number("after", json!("abc")), &[], "after: not a commit"),
        (number("before", json!("abc")), &[], "before: not a commit"),
        (number("ref", json!("main")), &[], "ref: not a full git ref"),
        (number("ref", json!("refs/heads/a\nb")), &[], "ref: not a full git ref"),
        (push.bytes(), &["X-GitHub-Delivery: 1", "X-GitHub-Delivery: 2"], "came twice"),
    ] {
        let (code, text) = answer("github/acme/api", &payload, headers);
        assert!(code == 1 && text.starts_with("Rejected: ") && text.contains(part), "{part}: {code} {text}");
    }
}

#[test]
fn all_shapes_of_a_push_are_known() {
    let push = Push::new("acme/api", 'a');
    let body = push.json().to_string();
    let form: String = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &body).finish();
    let base64 = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &body);
    let headers =
        json!({"x-github-event": "push", "X-GitHub-Delivery": "72d3162e-cc78-11e3-81ab-4c9367dc0958"});
    for payload in [
        body.clone(),
        form.clone(),
        json!({"headers": headers, "body": body}).to_string(),
        json!({"headers": headers, "body": form}).to_string(),
        json!({"headers": {}, "body_base64": base64}).to_string(),
        format!("\n{body}\n"),
    ] {
        assert_eq!(deployed_by(payload.as_bytes()), ["exact", "default"], "{payload:.60}");
    }
    // 2012 had no default branch to say.
    assert_eq!(deployed_by(push.json_of_2012().to_string().as_bytes()), ["exact"]);

    let envelope = json!({"headers": {"X-GitHub-Event": "issues"}, "body": body}).to_string();
    let (code, text) = answer("github/acme/api", envelope.as_bytes(), &[]);
    assert!(code == 0 && text.contains("X-GitHub-Event is not push"), "{text}");
    let inner = json!({"headers": {}, "body": body}).to_string();
    for bad in [
        json!({"headers": {}, "body": inner}),
        json!({"headers": {}, "body": body, "body_base64": base64}),
        json!({"headers": {}, "body_base64": "not base64!"}),
        json!({"headers": {}}),
        json!({"body": body}),
    ] {
        let (code, text) = answer("github/acme/api", bad.to_string().as_bytes(), &[]);
        assert!(code == 1 && text.contains("the envelope must hold"), "{text}");
    }
}

#[test]
fn exact_subscriptions_know_one_spelling() {
    let text = beside_apps("").replace("localhost}", "localhost, subscribe: exact}");
    let file = Directory::new().write_kept("config.yaml", &text);
    let push = Push::new("acme/api", 'a').bytes();
    let told = |topic: &str| {
        let config = file.to_str().unwrap();
        words(&agent_given(&["check", "--config", config, "--topic", topic, "--message", "-"], &push))
    };
    assert!(told("github/acme/api").contains("api: deployed"));
    let text = told("github/Acme/API");
    assert!(text.starts_with("Not received: ") && text.contains("github/acme/api."), "{text}");
    assert!(told("github/acme/other").starts_with("Ignored: no app here"));
}

#[test]
fn a_message_may_be_a_file() {
    let directory = Directory::new();
    let config = directory.write("config.yaml", beside_apps(""));
    let message = directory.write("push.json", Push::new("acme/api", 'a').bytes());
    let run = |message: &Path| {
        let (config, message) = (config.to_str().unwrap(), message.to_str().unwrap());
        agent(&["check", "--config", config, "--topic", "github/acme/api", "--message", message])
    };
    let output = run(&message);
    assert!(output.status.success() && words(&output).contains("api: deployed"), "{output:?}");
    let output = run(Path::new("/no/such/push.json"));
    assert_eq!(output.status.code(), Some(1));
    assert!(errors(&output).contains("/no/such/push.json: No such file"), "{output:?}");
}
