//! What others start while the services are down: a socket, a timer, somebody at a terminal. It may run the old code, and
//! a start would leave it at that. What comes up from here on finds the update and the environment in place.

use tracing::warn;

use crate::service::{Answer, ServiceName, Trace};
use crate::worker::machine::Machine;

use super::Deploy;

impl Deploy<'_> {
    /// The first service by its manager's own means, which costs no look; for the others see
    /// [`Self::stop_what_others_started`]. One that could not be stopped is not asked to a second time.
    pub(super) fn begin_start<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        trace: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        let manager = self.context.manager.as_ref();
        if self.stopped && self.app.services.first() == Some(service) {
            manager.start_anew(service, environment, trace)
        } else {
            manager.start(service, environment, trace)
        }
    }

    /// Before the first start, which may start the others because it needs them: they are then not to be started twice.
    pub(super) async fn stop_what_others_started(&mut self) {
        let app = self.app;
        let others = app.services.get(1..).unwrap_or_default();
        if others.is_empty() || !self.stopped || !self.goes_on() {
            return;
        }
        let mut early = Vec::new();
        for service in others {
            if self.look(service).await.is_ok_and(|status| status.is_started()) {
                early.push(service);
            }
        }
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
