//! The broker of a measurement: it keeps everything that it is given, and logs subscriptions only.

use std::time::{Duration, Instant};

use crate::process;
use crate::support::{LOOK, Mosquitto, PATIENCE};

/// A mosquitto for measurements.
pub fn start() -> Mosquitto {
    Mosquitto::quiet()
}

/// Waits until this client has been granted its subscriptions.
pub fn await_subscriber(broker: &Mosquitto, client: &str) {
    let line = format!("{client} 1 github/");
    let deadline = Instant::now() + PATIENCE;
    while broker.logged(&line) == 0 {
        assert!(Instant::now() < deadline, "{client} does not subscribe:\n{}", broker.log());
        std::thread::sleep(LOOK);
    }
}

/// The time that the broker has been on a processor.
pub fn cpu(broker: &Mosquitto) -> Duration {
    broker.pid().map(process::cpu).unwrap_or_default()
}
