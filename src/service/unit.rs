//! What `systemctl show` says of a unit, and what that means.

use std::collections::HashMap;

use super::{Limits, ServiceError, ServiceName, Status, span};

/// The properties to ask for: fewer lines than the client keeps.
pub(super) const PROPERTIES: &str = "LoadState,LoadError,ActiveState,SubState,Type,RemainAfterExit,InvocationID,\
                                     Result,ExecMainCode,ExecMainStatus,TimeoutStopUSec,TimeoutStartUSec";

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
            "active" if self.get("SubState") == "exited" => Status::Completed,
            "active" | "reloading" | "refreshing" => Status::Running { incarnation: self.incarnation() },
            "activating" => Status::Starting,
            // On its way down, by a stop or because it died: it is no longer what was started.
            "deactivating" if self.get("Result") == "success" => Status::Stopped,
            "deactivating" | "failed" => Status::Failed(self.failure()),
            "inactive" | "maintenance" if self.is_done(completed) => Status::Completed,
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

    fn incarnation(&self) -> Option<String> {
        Some(self.get("InvocationID").to_owned()).filter(|id| !id.is_empty())
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

    /// None when a time span is not understood. Units that are no services have none.
    pub(super) fn limits(&self) -> Option<Limits> {
        Some(Limits {
            stop: span::parse(self.get("TimeoutStopUSec")).ok()?,
            start: span::parse(self.get("TimeoutStartUSec")).ok()?,
        })
    }

    pub(super) fn into_misunderstanding(self, service: &ServiceName) -> ServiceError {
        let mut properties: Vec<String> =
            self.0.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
        properties.sort();
        ServiceError::Answer { command: format!("systemctl show -- {service}"), answer: properties.join(" ") }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

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
        assert_eq!(status!("oneshot-remains"), Status::Completed);
        assert_eq!(status!("oneshot-done"), Status::Completed);
        assert_eq!(unit!("oneshot-forgotten").status(true), Some(Status::Completed));
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
    fn limits_are_the_units_own() {
        let limits = unit!("timeouts").limits().unwrap();
        assert_eq!(limits, Limits { stop: None, start: Some(Duration::from_millis(90_500)) });
        let limits = unit!("oneshot-done").limits().unwrap();
        assert_eq!(limits, Limits { stop: Some(Duration::from_secs(90)), start: None });
        assert_eq!(unit!("mount").limits().unwrap(), Limits::default());
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
