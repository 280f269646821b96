//! What `systemctl show` says of a command's unit.

use std::collections::HashMap;

/// The properties to ask for.
pub(super) const PROPERTIES: &str = "LoadState,ActiveState,ExecMainCode";

#[derive(Debug)]
pub(super) struct State {
    loaded: bool,
    active: String,
    code: i32,
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
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn state(lines: &str) -> State {
        State::parse(lines).unwrap()
    }

    #[test]
    fn a_unit_whose_main_process_has_ended_is_told_from_one_that_runs() {
        let running = state("ExecMainCode=0\nLoadState=loaded\nActiveState=activating\n");
        assert!(running.main_runs());
        let ending = state("ExecMainCode=1\nLoadState=loaded\nActiveState=deactivating\n");
        assert!(!ending.main_runs() && ending.is_active());
        let failed = state("LoadState=loaded\nActiveState=failed\nExecMainCode=2\n");
        assert!(!failed.main_runs() && !failed.is_active() && !failed.is_forgotten());
        assert!(state("LoadState=loaded\nActiveState=active\n").is_active(), "a scope");
    }

    #[test]
    fn what_is_unknown_is_forgotten_and_what_is_not_understood_is_none() {
        assert!(state("LoadState=not-found\nActiveState=inactive\n").is_forgotten());
        assert!(!state("LoadState=not-found\nActiveState=active\n").is_forgotten());
        assert!(State::parse("").is_none());
        assert!(State::parse("LoadState=loaded\nActiveState=failed\nExecMainCode=x\n").is_none());
    }
}
