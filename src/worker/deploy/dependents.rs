//! What goes down with the app's services because it needs them, and is started again after them.

use tracing::{info, warn};

use crate::outcome::Step;
use crate::service::{ServiceName, Trace};
use crate::worker::machine::Machine;
use crate::worker::overdue::{late, late_start, unless};

use super::{Deploy, STATUS_TIMEOUT, service_failure};

impl Deploy<'_> {
    /// What a stop takes down now, and what an earlier one took down of which nobody knows that it is up again.
    pub(super) async fn dependents(&self) -> Vec<ServiceName> {
        let owed = self.ledger.machine().record().owed.clone();
        let look = self.context.manager.dependents(&self.app.services, &owed);
        match unless(late(STATUS_TIMEOUT), look).await {
            Ok(dependents) => dependents,
            Err(problem) => {
                let error = problem.error;
                warn!(app = %self.app.name, %error, "cannot find out what will stop with the services");
                owed
            }
        }
    }

    /// Even when one of the services has failed: it says so, and so does what needs it.
    pub(super) async fn start_dependents(&mut self) {
        let owed = self.ledger.machine().record().owed.clone();
        let mut down = Vec::new();
        for service in &owed {
            if !self.start_dependent(service).await {
                down.push(service.clone());
            }
        }
        if owed != down {
            self.note_owed(down);
        }
    }

    async fn start_dependent(&mut self, service: &ServiceName) -> bool {
        let manager = self.context.manager.as_ref();
        let note = self.note();
        let trace = Trace::new(&self.attempt.mark, &note);
        let late = late_start(manager, service, self.app.start_timeout, self.shutdown);
        let started = unless(late, manager.start_again(service, &trace)).await;
        self.forget_running();
        let Err(problem) = started else {
            info!(app = %self.app.name, step = "start", %service, "brought up again, as it may have stopped with the services");
            return true;
        };
        self.failures.push(service_failure(Step::Start, service, problem));
        false
    }

    /// Nobody waits for it: one start too many, should the agent be killed first, finds it up.
    fn note_owed(&self, owed: Vec<ServiceName>) {
        let ledger = self.ledger.clone();
        tokio::spawn(async move {
            let _ = ledger.change(|record| record.owed = owed, Machine::noted).await;
        });
    }
}
