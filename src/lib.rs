//! instance-agent.
pub mod command;
pub mod github;
pub mod service;
