//! Restarts the apps of an instance when GitHub pushes to them, over MQTT.
//!
//! A push travels through the modules in this order; each knows its neighbours' types, and only [`agent`] knows
//! them all:
//!
//! ```text
//! broker ──► mqtt ──► push ──► router ──► journal ──► worker ──► service manager
//!            poll     decode   match      record,     one per    stop, start,
//!            subscribe                    then ack    app        status
//! ```
//!
//! | module | what it does |
//! |---|---|
//! | [`mqtt`] | keeps the connection: polls, subscribes, acknowledges, backs off |
//! | [`topic`], [`push`] | topic, headers and payload → a push made of validated values |
//! | [`trust`], [`signature`] | which pushes count: signed, and not too old; pure |
//! | [`router`], [`refs`] | push → apps, or why not; pure |
//! | [`journal`], [`recovery`], [`state_dir`] | what outlives the agent, and what it mends first at a start |
//! | [`worker`] | per app: what to deploy and when, and the deploy itself |
//! | [`command`], [`service`], [`tools`] | run a configured command; stop, start and look at services; both as they suit the host |
//! | [`handover`], [`outcome`] | what a deploy hands to the app, and how it ended |
//! | [`publish`] | the other side: a webhook's body, or a wish → the message that agents take |
//! | [`config`] | sources → fragments → valid settings |
//! | [`ec2`], [`imds`] | is this EC2, and what does its metadata service say |
//! | [`agent`], [`cli`] | wiring, reload, shutdown; the command line |

pub mod agent;
pub mod cli;
pub mod command;
pub mod config;
pub mod ec2;
mod exposure;
pub mod github;
pub mod handover;
pub mod imds;
pub mod journal;
pub mod mqtt;
pub mod outcome;
pub mod publish;
pub mod push;
pub mod recovery;
pub mod refs;
pub mod refusals;
pub mod router;
pub mod service;
pub mod signature;
mod slack;
pub mod state_dir;
pub mod supervisor;
mod tail;
mod throttle;
pub mod tools;
pub mod topic;
pub mod trust;
pub mod worker;
