//! systemd, through `systemctl`.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tracing::{info, warn};

use super::client::{Finished, UNTRANSLATED, ask, display, lines_of, run};
use super::dependents::{self, Walk};
use super::unit::{PROPERTIES, Unit};
use super::{Answer, Limits, ServiceError, ServiceManager, ServiceName, Status, Trace, timeouts};

/// Stops and starts units of the system's systemd. Environment reaches them by a file that they name, not by this.
#[derive(Debug)]
pub struct Systemd {
    program: String,
    /// Oneshot units that a start of ours completed: systemd forgets a unit that nothing refers to as soon as it
    /// is down, and then shows it as one that never ran.
    completed: Mutex<HashSet<ServiceName>>,
}

impl Systemd {
    /// What logs and the configuration call it.
    pub const NAME: &str = "systemd";

    /// Uses the `systemctl` of the PATH.
    pub fn new() -> Self {
        Self::with_program("systemctl")
    }

    /// Uses another `systemctl`.
    pub fn with_program(program: impl Into<String>) -> Self {
        Self { program: program.into(), completed: Mutex::default() }
    }

    async fn systemctl(&self, verb: &str, service: &ServiceName) -> Result<Finished, ServiceError> {
        run(&[&self.program, verb, "--", service.as_str()], &UNTRANSLATED, None).await
    }

    async fn show(&self, service: &ServiceName) -> Result<Unit, ServiceError> {
        let argv = [&self.program, "show", "--property", PROPERTIES, "--", service.as_str()];
        let finished = run(&argv, &UNTRANSLATED, None).await?;
        if !finished.success() {
            return Err(finished.into_failure());
        }
        Unit::parse(&finished.output).ok_or_else(|| finished.into_misunderstanding())
    }

    async fn stop_unit(&self, service: &ServiceName) -> Result<(), ServiceError> {
        self.completed().remove(service);
        let finished = self.systemctl("stop", service).await?;
        if !finished.success() {
            return Err(self.explain(service, finished).await);
        }
        if !finished.output.is_empty() {
            // That a socket could start it again, which is told when that happens.
            info!(%service, said = finished.output.join(" | "), "systemctl has something to say of the stop");
        }
        Ok(())
    }

    /// Starts it, or with another verb something of that kind.
    async fn bring_up(&self, verb: &str, service: &ServiceName) -> Result<(), ServiceError> {
        self.completed().remove(service);
        // Fails for a unit that is not loaded, which has nothing to reset.
        self.systemctl("reset-failed", service).await?;
        let finished = self.systemctl(verb, service).await?;
        if !finished.success() {
            return Err(self.explain(service, finished).await);
        }
        if !finished.output.is_empty() {
            // That its file changed and was not read again, say.
            warn!(%service, said = finished.output.join(" | "), "systemctl warns of the start");
        }
        self.completed().insert(service.clone());
        Ok(())
    }

    /// By itself: a start as one knows it would also start what the target wants and somebody has stopped. Not waited for,
    /// as that could be for anything that is ordered before it.
    async fn start_target(&self, target: &ServiceName) -> Result<(), ServiceError> {
        let alone = ["--no-block", "--job-mode=ignore-requirements"];
        let argv = [&self.program, "start", alone[0], alone[1], "--", target.as_str()];
        let finished = run(&argv, &UNTRANSLATED, None).await?;
        if finished.success() { Ok(()) } else { Err(finished.into_failure()) }
    }

    async fn dependents_of(
        &self,
        services: &[ServiceName],
        owed: &[ServiceName],
    ) -> Result<Vec<ServiceName>, ServiceError> {
        let asked: Vec<_> = services.iter().chain(owed).map(ServiceName::as_str).collect();
        let mut walk = Walk::default();
        let mut next = walk.begin(&self.show_dependents(&asked).await?, services.len());
        while !next.is_empty() {
            let asked: Vec<_> = next.iter().map(String::as_str).collect();
            next = walk.go_on(&self.show_dependents(&asked).await?);
        }
        Ok(walk.into_found())
    }

    async fn show_dependents(&self, units: &[&str]) -> Result<String, ServiceError> {
        let argv = [&self.program, "show", "--property", dependents::PROPERTIES, "--"];
        ask(&[&argv, units].concat()).await
    }

    async fn status_of(&self, service: &ServiceName) -> Result<Status, ServiceError> {
        let unit = self.show(service).await?;
        let completed = self.completed().contains(service);
        unit.status(completed).ok_or_else(|| unit.into_misunderstanding(service))
    }

    /// `systemctl is-system-running` would say "starting" of a host that goes down before its boot is complete, as it
    /// does when cloud-init ends with a reboot.
    async fn host_is_shutting_down(&self) -> Result<bool, ServiceError> {
        let argv = [&self.program, "show", "--property", "ActiveState,Job", "--", "shutdown.target"];
        let finished = run(&argv, &UNTRANSLATED, None).await?;
        if finished.success() { Ok(is_on_its_way(&finished.output)) } else { Err(finished.into_failure()) }
    }

    /// systemctl's own words do not always tell: 5 is the exit code for a missing dependency, too, and of a service
    /// that failed they say only where to look.
    async fn explain(&self, service: &ServiceName, finished: Finished) -> ServiceError {
        let status = self.status_of(service).await;
        let mut error = finished.into_failure();
        match (status, &mut error) {
            (Ok(Status::NotFound), _) => {
                return ServiceError::NotFound { manager: Self::NAME.to_owned(), service: service.clone() };
            }
            (Ok(Status::Failed(why)), ServiceError::Failed { output, .. }) => output.push(why),
            _ => {}
        }
        error
    }

    fn completed(&self) -> MutexGuard<'_, HashSet<ServiceName>> {
        self.completed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Systemd {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceManager for Systemd {
    fn name(&self) -> &str {
        Self::NAME
    }

    // A `systemctl` that outlives the agent only waits: systemd does the work, and a later job replaces an earlier.
    fn stop<'a>(&'a self, service: &'a ServiceName, _: &'a Trace<'a>) -> Answer<'a, ()> {
        Box::pin(self.stop_unit(service))
    }

    fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        _: &'a [(String, String)],
        _: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        Box::pin(self.bring_up("start", service))
    }

    fn starts_anew(&self) -> bool {
        true
    }

    /// A restart is a start of what is down.
    fn start_anew<'a>(
        &'a self,
        service: &'a ServiceName,
        _: &'a [(String, String)],
        _: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        Box::pin(self.bring_up("restart", service))
    }

    fn dependents<'a>(
        &'a self,
        services: &'a [ServiceName],
        owed: &'a [ServiceName],
    ) -> Answer<'a, Vec<ServiceName>> {
        Box::pin(self.dependents_of(services, owed))
    }

    fn start_again<'a>(&'a self, service: &'a ServiceName, trace: &'a Trace<'a>) -> Answer<'a, ()> {
        if service.is_target() {
            Box::pin(self.start_target(service))
        } else {
            self.start(service, &[], trace)
        }
    }

    fn status<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Status> {
        Box::pin(self.status_of(service))
    }

    fn limits<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Limits> {
        Box::pin(async move {
            let argv = [&self.program, "show", "--property", timeouts::PROPERTIES, "--", service.as_str()];
            let answer = ask(&argv).await?;
            timeouts::parse(&answer).ok_or_else(|| misunderstanding(&argv, &answer))
        })
    }

    fn is_shutting_down(&self) -> Answer<'_, bool> {
        Box::pin(self.host_is_shutting_down())
    }
}

/// True when the unit of this `show` is up, or has a job that nobody gives it but to start it.
fn is_on_its_way(shown: &[String]) -> bool {
    let properties = shown.iter().filter_map(|line| line.split_once('='));
    properties.into_iter().any(|property| match property {
        ("ActiveState", state) => state == "active",
        ("Job", job) => !matches!(job, "" | "0"),
        _ => false,
    })
}

fn misunderstanding(argv: &[&str], answer: &str) -> ServiceError {
    ServiceError::Answer { command: display(argv), answer: lines_of(answer.as_bytes()).join(" | ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shutdown_shows_from_its_job_on() {
        let shows =
            |lines: &[&str]| is_on_its_way(&lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>());
        assert!(shows(&["Job=815", "ActiveState=inactive"]), "it has yet to wait for others to stop");
        assert!(shows(&["ActiveState=active"]));
        for up in [
            &["ActiveState=inactive"][..],
            &["Job=0", "ActiveState=inactive"],
            &["Job=", "ActiveState=inactive"],
            &[],
        ] {
            assert!(!shows(up), "{up:?}");
        }
    }
}
