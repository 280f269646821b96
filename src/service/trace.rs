//! How the next agent finds a service manager's own command, should this one be killed while it runs.

use tokio::process::Child;

use crate::command::{Mark, ProcessGroup, Running};

/// A mark in the command's environment; and as it may clear that, its process group, which is noted.
#[derive(Clone, Copy)]
pub struct Trace<'a> {
    mark: &'a Mark,
    note: Option<&'a (dyn Fn(Running) + Send + Sync)>,
}

impl<'a> Trace<'a> {
    /// `note` hears of each command as soon as it is started.
    pub fn new(mark: &'a Mark, note: &'a (dyn Fn(Running) + Send + Sync)) -> Self {
        Self { mark, note: Some(note) }
    }

    /// The mark alone.
    pub fn unnoted(mark: &'a Mark) -> Self {
        Self { mark, note: None }
    }

    /// For the command's environment.
    pub(super) fn variable(&self) -> (&'static str, String) {
        self.mark.variable()
    }

    pub(super) fn started(&self, child: &Child) {
        let leader = child.id().and_then(|id| i32::try_from(id).ok());
        // Without /proc there is nothing by which to tell it from a later one of the same number.
        let group = leader.and_then(|leader| ProcessGroup::led_by(leader).ok());
        if let (Some(note), Some(group)) = (self.note, group) {
            note(Running::Group(group));
        }
    }
}
