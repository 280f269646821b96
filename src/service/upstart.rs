//! upstart, through `initctl`. Its words are those of upstart 1.12.

use super::client::{Finished, UNTRANSLATED, run};
use super::{Answer, Limits, ServiceError, ServiceManager, ServiceName, Status, Trace};

const NAME: &str = "upstart";

/// Stops and starts jobs of upstart, and hands them environment as `KEY=VALUE` arguments of `start`.
#[derive(Debug)]
pub struct Upstart {
    program: String,
}

impl Upstart {
    /// Uses the `initctl` of the PATH.
    pub fn new() -> Self {
        Self::with_program("initctl")
    }

    /// Uses another `initctl`.
    pub fn with_program(program: impl Into<String>) -> Self {
        Self { program: program.into() }
    }

    async fn initctl(
        &self,
        verb: &str,
        service: &ServiceName,
        assignments: &[String],
        trace: Option<&Trace<'_>>,
    ) -> Result<Finished, ServiceError> {
        let mut argv = vec![self.program.as_str(), verb, service.as_str()];
        argv.extend(assignments.iter().map(String::as_str));
        run(&argv, &UNTRANSLATED, trace).await
    }

    async fn stop_job(&self, service: &ServiceName, trace: &Trace<'_>) -> Result<(), ServiceError> {
        let finished = self.initctl("stop", service, &[], Some(trace)).await?;
        if finished.success() || finished.says("Unknown instance:") {
            return Ok(());
        }
        Err(failure(service, finished))
    }

    async fn start_job(
        &self,
        service: &ServiceName,
        environment: &[(String, String)],
        trace: &Trace<'_>,
    ) -> Result<(), ServiceError> {
        let assignments: Vec<String> =
            environment.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let finished = self.initctl("start", service, &assignments, Some(trace)).await?;
        if finished.success() || finished.says("Job is already running:") {
            return Ok(());
        }
        Err(failure(service, finished))
    }

    async fn status_of(&self, service: &ServiceName) -> Result<Status, ServiceError> {
        let finished = self.initctl("status", service, &[], None).await?;
        if finished.success() {
            return parse(service, &finished.output).ok_or_else(|| finished.into_misunderstanding());
        }
        if finished.says("Unknown instance:") {
            return Ok(Status::Stopped);
        }
        match failure(service, finished) {
            ServiceError::NotFound { .. } => Ok(Status::NotFound),
            error => Err(error),
        }
    }
}

impl Default for Upstart {
    fn default() -> Self {
        Self::new()
    }
}

impl ServiceManager for Upstart {
    fn name(&self) -> &str {
        NAME
    }

    fn stop<'a>(&'a self, service: &'a ServiceName, trace: &'a Trace<'a>) -> Answer<'a, ()> {
        Box::pin(self.stop_job(service, trace))
    }

    fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        trace: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        Box::pin(self.start_job(service, environment, trace))
    }

    fn status<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Status> {
        Box::pin(self.status_of(service))
    }

    /// upstart knows a `kill timeout`, but tells it to nobody.
    fn limits<'a>(&'a self, _service: &'a ServiceName) -> Answer<'a, Limits> {
        Box::pin(std::future::ready(Ok(Limits::default())))
    }
}

fn failure(service: &ServiceName, finished: Finished) -> ServiceError {
    if finished.says("Unknown job:") {
        ServiceError::NotFound { manager: NAME.to_owned(), service: service.clone() }
    } else {
        finished.into_failure()
    }
}

/// `JOB GOAL/STATE` or `JOB (INSTANCE) GOAL/STATE`, then `, process PID` while there is one. Lines of further
/// processes (`\tpost-start process PID`) may follow.
fn parse(service: &ServiceName, output: &[String]) -> Option<Status> {
    let line = output.iter().find_map(|line| line.strip_prefix(service.as_str())?.strip_prefix(' '))?;
    let (state, process) = match line.split_once(", process ") {
        Some((state, process)) => (state, Some(process)),
        None => (line, None),
    };
    let (goal, state) = state.rsplit(' ').next()?.split_once('/')?;
    match (goal, state) {
        ("start", "running") => Some(Status::Running { incarnation: process.map(str::to_owned) }),
        // Also stopping, killed and post-stop: a job that died and is brought up again.
        ("start", _) => Some(Status::Starting),
        // On its way down or there: upstart does not remember whether it failed.
        ("stop", _) => Some(Status::Stopped),
        _ => None,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn status(output: &str) -> Option<Status> {
        let lines: Vec<String> = output.lines().map(str::to_owned).collect();
        parse(&"api".parse().unwrap(), &lines)
    }

    fn running(process: &str) -> Status {
        Status::Running { incarnation: Some(process.to_owned()) }
    }

    #[test]
    fn a_running_job_is_told_by_its_process() {
        assert_eq!(status("api start/running, process 1234"), Some(running("1234")));
        assert_eq!(status("api (blue) start/running, process 1234"), Some(running("1234")));
        assert_eq!(status("api start/running"), Some(Status::Running { incarnation: None }));
    }

    #[test]
    fn a_job_on_its_way_up_is_starting() {
        for output in [
            "api start/starting",
            "api start/pre-start, process 1234",
            "api start/spawned, process 1234",
            "api start/post-start, process 1234\n post-start process 1235",
            "api start/post-stop, process 1234",
        ] {
            assert_eq!(status(output), Some(Status::Starting), "{output}");
        }
    }

    #[test]
    fn a_job_that_shall_not_run_is_stopped() {
        for output in [
            "api stop/waiting",
            "api stop/killed, process 1234",
            "api stop/pre-stop, process 1234\n pre-stop process 1235",
            "api stop/post-stop, process 1236",
        ] {
            assert_eq!(status(output), Some(Status::Stopped), "{output}");
        }
    }

    #[test]
    fn anything_else_is_not_understood() {
        for output in ["", "api", "api ", "apis start/running, process 1", "api banana/waiting", "api start"]
        {
            assert_eq!(status(output), None, "{output}");
        }
    }
}
