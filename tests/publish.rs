//! The publishing side: `instance-agent publish`, and the examples that publish, by real programs and brokers.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod support;

#[path = "publish/aws_iot.rs"]
mod aws_iot;
#[path = "publish/broker.rs"]
mod broker;
#[path = "publish/deploys.rs"]
mod deploys;
#[path = "publish/github_actions.rs"]
mod github_actions;
#[path = "publish/refusals.rs"]
mod refusals;
#[path = "publish/warnings.rs"]
mod warnings;
#[path = "publish/webhook_relay.rs"]
mod webhook_relay;

use std::path::{Path, PathBuf};
use std::process::Output;

use support::program;

/// The program with these arguments, variables and this input.
fn publish(arguments: &[&str], variables: &[(&str, &str)], input: &[u8]) -> Output {
    program::run(&[&["publish"], arguments].concat(), variables, input)
}

/// What it says, having published.
fn published(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// What it complains of, having ended with this code.
fn refused(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    String::from_utf8(output.stderr.clone()).unwrap()
}

fn holds(text: &str, parts: &[&str]) {
    for part in parts {
        assert!(text.contains(part), "{part} is missing: {text}");
    }
}

/// The directory of an example.
fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(name)
}
