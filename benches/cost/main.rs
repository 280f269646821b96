//! What it costs to listen, and how fast the agent acts: the release binary beside its peers, on a real mosquitto.
//!
//! `make bench` runs everything and prints the tables of docs/performance.md; `cargo bench --bench cost -- idle acting`
//! only these parts. Run by `cargo test`, it does everything a few times over, to see that it still works: no figure
//! is looked at then.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::print_stderr,
    missing_docs
)]
#![allow(unreachable_pub)]
#![allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss)]

#[path = "../../tests/support/container.rs"]
mod container;
#[path = "../../tests/support/mod.rs"]
mod support;

mod acting;
mod broker;
mod deploying;
mod fleet;
mod growing;
mod idle;
mod ignoring;
mod instance;
mod load;
mod mark;
mod options;
mod peers;
mod process;
mod statistics;
mod table;

use options::{Options, Run};
use table::Table;

/// A part of the measurements: what it is called on the command line, and what it does.
type Part = (&'static str, fn(&Options) -> Vec<Table>);

const PARTS: [Part; 6] = [
    ("ignoring", ignoring::measure),
    ("idle", idle::measure),
    ("acting", acting::measure),
    ("deploying", deploying::measure),
    ("growing", growing::measure),
    ("fleet", fleet::measure),
];

fn main() {
    let options = match Options::from_arguments(std::env::args().skip(1)) {
        Run::Measure(options) => options,
        Run::Mark(socket) => return mark::send(&socket),
        Run::Peer { acks, port } => return peers::rumqttc_loop(acks, port),
        Run::Inside(options) => return deploying::inside(&options),
        Run::List => return println!("cost: benchmark"),
    };
    if !options.json {
        println!("{}", table::host());
    }
    let mut tables = Vec::new();
    for (name, measure) in PARTS {
        if options.wants(name) {
            eprintln!("measuring: {name}");
            let measured = measure(&options);
            assert!(
                !measured.is_empty() && measured.iter().all(Table::is_complete),
                "{name}: figures are missing"
            );
            // At once, so that they are there should a later part fail.
            for table in measured.iter().filter(|_| !options.json) {
                println!("{table}");
            }
            tables.extend(measured);
        }
    }
    assert!(!tables.is_empty(), "no part is called so; the parts: {:?}", PARTS.map(|(name, _)| name));
    if options.json {
        println!("{:#}", table::json(&tables));
    }
}
