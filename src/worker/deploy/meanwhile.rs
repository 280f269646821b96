//! What others start while the services are down: a socket, a timer, somebody at a terminal.

use tracing::warn;

use crate::service::{ServiceName, Status};
use crate::worker::machine::Machine;

use super::Deploy;

impl Deploy<'_> {
    /// Stops services again that were started since they were stopped: they may run the old code, and a start would leave
    /// it at that. What comes up from here on finds the update and the environment in place.
    pub(super) async fn stop_what_others_started(&mut self) {
        // One that could not be stopped is not asked to a second time.
        if !self.stopped || !self.goes_on() {
            return;
        }
        let app = self.app;
        let looks = self.looks().await;
        let early: Vec<&ServiceName> = app
            .services
            .iter()
            .zip(looks)
            .filter(|(_, look)| is_started(look))
            .map(|(service, _)| service)
            .collect();
        if early.is_empty() {
            return;
        }
        // What came up with them goes down with them.
        let owed = self.dependents().await;
        if self.ledger.change(|record| record.owed = owed, Machine::noted).await.is_err() {
            self.cut_short = true;
            return;
        }
        for service in early.into_iter().rev() {
            warn!(app = %app.name, step = "stop", %service, "it is up before all of its update is in place: stopping it again");
            self.stop_service(service).await;
        }
    }
}

fn is_started(look: &Result<Status, String>) -> bool {
    matches!(look, Ok(Status::Running { .. } | Status::Starting | Status::Ended | Status::Unclear))
}
