//! What `systemctl show` says of a unit, and what that means.

use std::collections::HashMap;

use super::{ServiceError, ServiceName, Status};

/// The properties to ask for: fewer lines than the client keeps.
pub(super) const PROPERTIES: &str = "LoadState,LoadError,ActiveState,SubState,Type,RemainAfterExit,InvocationID,\
                                     Result,ExecMainCode,ExecMainStatus,SourcePath,GuessMainPID,NRestarts,\
                                     ActiveEnterTimestampMonotonic,ExecMainStartTimestampMonotonic";
/// Where init scripts are; the second is Red Hat's.
const INIT_SCRIPTS: [&str; 2] = ["/etc/init.d/", "/etc/rc.d/init.d/"];
/// What tells two runs of a unit apart where systemd has no `InvocationID` (before 232).
const SINCE: [&str; 3] = ["ActiveEnterTimestampMonotonic", "ExecMainStartTimestampMonotonic", "NRestarts"];

/// The answer of `systemctl show`.
#[derive(Debug)]
pub(super) struct Unit(HashMap<String, String>);

impl Unit {
    /// None when the lines do not hold what every systemd answers.
    pub(super) fn parse(lines: &[String]) -> Option<Self> {
        let pairs = lines.iter().filter_map(|line| line.split_once('='));
        let unit = Self(pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
        let complete = ["LoadState", "ActiveState"].iter().all(|key| !unit.get(key).is_empty());
        complete.then_some(unit)
    }

    /// Empty for what systemd does not say: a socket has no Type.
    fn get(&self, key: &str) -> &str {
        self.0.get(key).map_or("", String::as_str)
    }

    /// `completed`: a start of ours succeeded and no stop followed. None when systemd speaks of an unknown state.
    pub(super) fn status(&self, completed: bool) -> Option<Status> {
        match self.get("LoadState") {
            // Even while it runs: a service whose unit file is gone cannot be started again.
            "not-found" => return Some(Status::NotFound),
            "masked" => return Some(Status::Failed("masked: `systemctl unmask` it".to_owned())),
            "bad-setting" | "error" => return Some(Status::Failed(self.load_error())),
            _ => {}
        }
        Some(match self.get("ActiveState") {
            "active" if self.get("SubState") == "exited" => self.exited(),
            "active" | "reloading" | "refreshing" => Status::Running { incarnation: self.incarnation() },
            "activating" => Status::Starting,
            // On its way down, by a stop or because it died: it is no longer what was started.
            "deactivating" if self.get("Result") == "success" => Status::Stopped,
            "deactivating" | "failed" => Status::Failed(self.failure()),
            "inactive" | "maintenance" if self.is_done(completed) => Status::Completed { remains: false },
            "inactive" | "maintenance" => Status::Stopped,
            _ => return None,
        })
    }

    /// A oneshot unit goes down when it has done its work, unless it remains after that: then down is stopped.
    fn is_done(&self, completed: bool) -> bool {
        let goes_down = self.get("Type") == "oneshot" && self.get("RemainAfterExit") != "yes";
        // CLD_EXITED: the main process ran since systemd loaded the unit, and ended by itself.
        let ran = self.get("ExecMainCode") == "1";
        goes_down && self.get("Result") == "success" && (completed || ran)
    }

    /// Active, but without a process.
    fn exited(&self) -> Status {
        match self.get("Type") {
            "oneshot" => Status::Completed { remains: true },
            _ if self.is_init_script() => Status::Unclear,
            _ => Status::Ended,
        }
    }

    /// As systemd runs it by default: with no notion of which process is its daemon, or whether it has one.
    fn is_init_script(&self) -> bool {
        let source = self.get("SourcePath");
        self.get("GuessMainPID") == "no" && INIT_SCRIPTS.iter().any(|place| source.starts_with(place))
    }

    fn incarnation(&self) -> Option<String> {
        let id = self.get("InvocationID");
        if !id.is_empty() {
            return Some(id.to_owned());
        }
        let since = SINCE.map(|key| self.get(key)).join("/");
        // Nothing that happened, nothing that systemd knows.
        since.contains(|c| !matches!(c, '0' | '/')).then_some(since)
    }

    /// Only these results are about how the main process ended; with others its status may be of an earlier run.
    fn failure(&self) -> String {
        let (result, status) = (self.get("Result"), self.get("ExecMainStatus"));
        match result {
            "exit-code" => format!("Result={result}, ExecMainStatus={status}"),
            "signal" | "core-dump" => format!("Result={result}, killed by signal {status}"),
            _ => format!("Result={result}"),
        }
    }

    /// `org.freedesktop.systemd1.BadUnitSetting "Unit x.service has a bad unit file setting."`
    fn load_error(&self) -> String {
        let message = self.get("LoadError").split('"').nth(1).unwrap_or_default();
        format!("LoadState={}: {message} See `systemd-analyze verify`.", self.get("LoadState"))
    }

    pub(super) fn into_misunderstanding(self, service: &ServiceName) -> ServiceError {
        let mut properties: Vec<String> =
            self.0.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        properties.sort();
        ServiceError::Answer { command: format!("systemctl show -- {service}"), answer: properties.join(" ") }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::panic)]
mod tests {
    use super::*;

    /// An answer of systemd 252, kept whole.
    macro_rules! unit {
        ($name:literal) => {{
            let answer = include_str!(concat!("fixtures/", $name, ".show"));
            Unit::parse(&answer.lines().map(str::to_owned).collect::<Vec<_>>()).unwrap()
        }};
    }

    macro_rules! status {
        ($name:literal) => {
            unit!($name).status(false).unwrap()
        };
    }

    fn running(id: &str) -> Status {
        Status::Running { incarnation: Some(id.to_owned()) }
    }

    #[test]
    fn an_active_unit_runs_in_an_incarnation() {
        assert_eq!(status!("active"), running("4e5beca038cf431cbfa305a46eae363f"));
        assert_eq!(status!("reloading"), running("4e5beca038cf431cbfa305a46eae363f"));
    }

    #[test]
    fn a_unit_on_its_way_up_or_waiting_to_be_restarted_is_starting() {
        assert_eq!(status!("activating"), Status::Starting);
        assert_eq!(status!("auto-restart"), Status::Starting);
    }

    #[test]
    fn a_unit_on_its_way_down_is_no_longer_up() {
        assert_eq!(status!("stopping"), Status::Stopped);
        assert_eq!(status!("dying"), Status::Failed("Result=exit-code, ExecMainStatus=1".to_owned()));
    }

    #[test]
    fn a_oneshot_unit_that_did_its_work_is_completed() {
        assert_eq!(status!("oneshot-remains"), Status::Completed { remains: true });
        assert_eq!(status!("oneshot-done"), Status::Completed { remains: false });
        assert_eq!(unit!("oneshot-forgotten").status(true), Some(Status::Completed { remains: false }));
    }

    #[test]
    fn a_unit_that_is_down_is_stopped() {
        assert_eq!(status!("oneshot-never-ran"), Status::Stopped);
        assert_eq!(status!("enabled-oneshot-never-ran"), Status::Stopped);
        assert_eq!(unit!("oneshot-stopped").status(true), Some(Status::Stopped));
        assert_eq!(unit!("timeouts").status(true), Some(Status::Stopped));
    }

    #[test]
    fn a_failure_says_how_it_came() {
        let failed = |why: &str| Status::Failed(why.to_owned());
        assert_eq!(status!("failed"), failed("Result=exit-code, ExecMainStatus=1"));
        assert_eq!(status!("failed-by-signal"), failed("Result=signal, killed by signal 11"));
        assert_eq!(status!("start-limit-hit"), failed("Result=start-limit-hit"));
    }

    #[test]
    fn what_cannot_be_started_is_told_apart() {
        assert_eq!(status!("not-found"), Status::NotFound);
        assert_eq!(status!("active-without-unit-file"), Status::NotFound);
        assert_eq!(status!("masked"), Status::Failed("masked: `systemctl unmask` it".to_owned()));
        let why = "LoadState=bad-setting: Unit bad-setting.service has a bad unit file setting. See \
                   `systemd-analyze verify`.";
        assert_eq!(status!("bad-setting"), Status::Failed(why.to_owned()));
    }

    #[test]
    fn a_unit_that_counts_as_active_without_a_process_is_no_oneshot() {
        assert_eq!(status!("remains-without-process"), Status::Ended);
        assert_eq!(status!("forking-remains-without-process"), Status::Ended);
        assert_eq!(status!("init-script-without-process"), Status::Unclear);
        let mut overridden = unit!("init-script-without-process");
        overridden.0.insert("GuessMainPID".to_owned(), "yes".to_owned());
        assert_eq!(overridden.status(false), Some(Status::Ended), "systemd knew its process");
    }

    #[test]
    fn without_an_invocation_id_times_tell_two_runs_apart() {
        let Some(Status::Running { incarnation: Some(first) }) = unit!("without-invocation-id").status(false)
        else {
            panic!("no incarnation")
        };
        for key in SINCE {
            let mut later = unit!("without-invocation-id");
            later.0.insert(key.to_owned(), "77".to_owned());
            let Some(Status::Running { incarnation: Some(second) }) = later.status(false) else {
                panic!("no incarnation")
            };
            assert_ne!(first, second, "{key}");
        }
        let mut unknown = unit!("without-invocation-id");
        unknown.0.retain(|key, _| !SINCE.contains(&key.as_str()));
        assert_eq!(unknown.status(false), Some(Status::Running { incarnation: None }));
    }

    #[test]
    fn an_answer_without_states_is_not_understood() {
        assert!(Unit::parse(&[]).is_none());
        assert!(Unit::parse(&["LoadState=loaded".to_owned()]).is_none());
        let unit = Unit::parse(&["LoadState=loaded".to_owned(), "ActiveState=banana".to_owned()]).unwrap();
        assert_eq!(unit.status(false), None);
        let error = unit.into_misunderstanding(&"api".parse().unwrap()).to_string();
        let answer = "ActiveState=banana LoadState=loaded";
        assert_eq!(error, format!("`systemctl show -- api` answered what is not understood: {answer}"));
    }

    #[test]
    fn the_answer_fits_what_the_client_keeps() {
        assert!(PROPERTIES.split(',').count() < 20);
        assert!(!PROPERTIES.contains(char::is_whitespace));
    }
}
