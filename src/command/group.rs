//! The process group of a command, and how it ends.

use std::io;
use std::process::ExitStatus;
use std::time::Duration;

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

use super::{Stop, SystemdError};

/// How often a group without its leader is looked at: nothing announces the end of its last process.
pub(super) const LOOK: Duration = Duration::from_millis(20);

/// How a command came to its end.
pub(super) enum Ending {
    /// By itself.
    Own(io::Result<ExitStatus>),
    /// The exit status may be that of what should have started it.
    Starter(ExitStatus),
    /// Its unit is gone, and the client that waited for it ended so. How the command ended, its witness reported.
    Unit { client: ExitStatus, name: String },
    /// Its time limit was over; `killed`: SIGTERM did not do.
    TimedOut { killed: bool },
    /// The agent's shutdown did not wait any longer; `killed`: SIGTERM did not do.
    Interrupted { killed: bool },
}

impl Ending {
    /// It is over, but how, nobody knows.
    pub(super) fn unknown(error: SystemdError) -> Self {
        Self::Own(Err(io::Error::other(error)))
    }
}

/// A process group, killed on drop unless it was released.
pub(super) struct Group(Option<Pid>);

impl Group {
    /// The group that `child` leads.
    pub(super) fn of(child: &Child) -> Self {
        Self(child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw))
    }

    /// Its leader's number.
    pub(super) fn id(&self) -> Option<i32> {
        self.0.map(Pid::as_raw)
    }

    /// Lets what is left of it be. Once its leader is reaped, its number may become another's.
    pub(super) fn release(&mut self) {
        self.0 = None;
    }

    pub(super) fn kill(&self) {
        self.signal(Signal::SIGKILL);
    }

    /// Waits for the command, no longer than it may run. Afterwards it is reaped, and unless it succeeded
    /// nothing of its group is left.
    pub(super) async fn supervise(
        mut self,
        child: &mut Child,
        limit: Duration,
        stop: &Stop,
        kill_after: Duration,
    ) -> Ending {
        tokio::select! {
            biased;
            status = child.wait() => {
                if status.as_ref().is_ok_and(ExitStatus::success) {
                    self.release();
                } else {
                    self.end(child, kill_after).await;
                }
                Ending::Own(status)
            }
            () = sleep(limit) => Ending::TimedOut { killed: self.end(child, kill_after).await },
            () = stop.reached() => Ending::Interrupted { killed: self.end(child, kill_after).await },
        }
    }

    /// Ends every process of the group; true when SIGTERM did not do.
    async fn end(&mut self, child: &mut Child, kill_after: Duration) -> bool {
        self.signal(Signal::SIGTERM);
        // A stopped process takes no notice of SIGTERM until it is continued.
        self.signal(Signal::SIGCONT);
        let killed = timeout(kill_after, self.gone(child)).await.is_err();
        if killed {
            self.signal(Signal::SIGKILL);
            let _ = child.wait().await;
        }
        self.release();
        killed
    }

    async fn gone(&self, child: &mut Child) {
        let _ = child.wait().await;
        while self.signal(None) {
            sleep(LOOK).await;
        }
    }

    /// True when there was a process that could be signalled. As long as there is one, the group's id is not
    /// given to another.
    fn signal(&self, signal: impl Into<Option<Signal>>) -> bool {
        self.0.is_some_and(|group| killpg(group, signal).is_ok())
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
