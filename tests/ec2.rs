//! EC2: the program and its parts against a strict metadata service over real HTTP.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "ec2/agent.rs"]
mod agent;
#[path = "ec2/client.rs"]
mod client;
#[path = "ec2/loader.rs"]
mod loader;
#[path = "ec2/packaging.rs"]
mod packaging;
#[path = "ec2/start.rs"]
mod start;
#[path = "ec2/tags.rs"]
mod tags;

mod support;
