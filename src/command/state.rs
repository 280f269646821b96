//! What `systemctl show` says of a command's unit.

use std::collections::HashMap;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// The properties to ask for.
pub(super) const PROPERTIES: &str = "LoadState,ActiveState,ExecMainCode,ExecMainStatus";

/// How waitid(2) calls it that a process exited; the other codes stand for signals.
const CLD_EXITED: i32 = 1;

#[derive(Debug)]
pub(super) struct State {
    loaded: bool,
    active: String,
    code: i32,
    status: i32,
}

impl State {
    /// None when the lines do not hold what every systemd answers.
    pub(super) fn parse(lines: &str) -> Option<Self> {
        let pairs: HashMap<_, _> = lines.lines().filter_map(|line| line.split_once('=')).collect();
        // Scopes have no main process.
        let number = |key| pairs.get(key).map_or(Some(0), |value: &&str| value.parse().ok());
        Some(Self {
            loaded: *pairs.get("LoadState")? != "not-found",
            active: (*pairs.get("ActiveState")?).to_owned(),
            code: number("ExecMainCode")?,
            status: number("ExecMainStatus")?,
        })
    }

    pub(super) fn is_forgotten(&self) -> bool {
        !self.loaded && !self.is_active()
    }

    /// Some process of it may be left.
    pub(super) fn is_active(&self) -> bool {
        !matches!(self.active.as_str(), "inactive" | "failed")
    }

    pub(super) fn main_runs(&self) -> bool {
        self.is_active() && self.code == 0
    }

    /// How its main process ended.
    pub(super) fn exit_status(&self) -> Option<ExitStatus> {
        match self.code {
            0 => None,
            CLD_EXITED => Some(ExitStatus::from_raw(self.status << 8)),
            _ => Some(ExitStatus::from_raw(self.status)),
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state(lines: &str) -> State {
        State::parse(lines).unwrap()
    }

    #[test]
    fn a_failure_tells_its_exit_status_or_its_signal() {
        let failed = "LoadState=loaded\nActiveState=failed\n";
        let exited = state(&format!("{failed}ExecMainCode=1\nExecMainStatus=203\n"));
        assert_eq!(exited.exit_status().unwrap().code(), Some(203));
        let killed = state(&format!("{failed}ExecMainCode=2\nExecMainStatus=9\n"));
        assert_eq!(killed.exit_status().unwrap().signal(), Some(9));
        let dumped = state(&format!("{failed}ExecMainCode=3\nExecMainStatus=11\n"));
        assert_eq!(dumped.exit_status().unwrap().signal(), Some(11));
        assert!(!exited.is_active() && !exited.is_forgotten() && !exited.main_runs());
    }

    #[test]
    fn a_unit_whose_main_process_has_ended_is_told_from_one_that_runs() {
        let running = state("ExecMainCode=0\nExecMainStatus=0\nLoadState=loaded\nActiveState=activating\n");
        assert!(running.main_runs() && running.exit_status().is_none());
        let ending = state("ExecMainCode=1\nExecMainStatus=4\nLoadState=loaded\nActiveState=deactivating\n");
        assert!(!ending.main_runs() && ending.is_active());
        let scope = state("LoadState=loaded\nActiveState=active\n");
        assert!(scope.is_active() && scope.exit_status().is_none());
    }

    #[test]
    fn what_is_unknown_is_forgotten_and_what_is_not_understood_is_none() {
        assert!(state("LoadState=not-found\nActiveState=inactive\n").is_forgotten());
        assert!(!state("LoadState=not-found\nActiveState=active\n").is_forgotten());
        assert!(State::parse("").is_none());
        assert!(State::parse("LoadState=loaded\nActiveState=failed\nExecMainCode=x\n").is_none());
    }
}
