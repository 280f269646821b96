//! What others start while the services are down: a socket, a timer, somebody at a terminal. It may run the old code, and
//! a start would leave it at that. What comes up from here on finds the update and the environment in place.

use tracing::warn;

use crate::outcome::Step;
use crate::service::{Answer, ServiceName, Trace};
use crate::worker::machine::Machine;
use crate::worker::overdue::Problem;

use super::{Deploy, service_failure};

impl Deploy<'_> {
    /// The first service by its manager's own means, where it has some, which costs no look; for the others see
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
        let unseen = usize::from(self.context.manager.starts_anew());
        let seen = app.services.get(unseen..).unwrap_or_default();
        if seen.is_empty() || !self.stopped || !self.goes_on() {
            return;
        }
        let mut early = Vec::new();
        for service in seen {
            if self.look(service).await.is_ok_and(|status| status.is_started()) {
                early.push(service);
            }
        }
        if early.is_empty() {
            return;
        }
        // What came up with them goes down with them.
        let owed = self.dependents().await;
        let is_noted = owed == self.ledger.machine().record().owed
            || self.ledger.change_at_once(|record| record.owed = owed, Machine::noted).await.is_ok();
        for service in early.into_iter().rev() {
            // The other services are down: they do not wait for a disk that refuses.
            if is_noted {
                warn!(app = %app.name, step = "stop", %service, "it is up before all of its update is in place: stopping it again");
                self.stop_service(service).await;
            } else {
                let problem = "it is up before all of its update is in place, and is not stopped again while the journal \
                               does not take what that takes down";
                self.failures.push(service_failure(Step::Start, service, Problem::plain(problem.into())));
            }
        }
    }
}
