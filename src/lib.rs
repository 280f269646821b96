//! instance-agent.
pub mod command;
pub mod github;
pub mod mqtt;
pub mod service;
