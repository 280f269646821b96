//! Processes that are measured: what the kernel knows of their time and memory.

use std::fs;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::support::{LOOK, PATIENCE};

/// A process with all that it starts; killed when dropped.
pub struct Group {
    child: Child,
}

impl Group {
    pub fn spawn(mut command: Command) -> Self {
        let child = command.process_group(0).spawn();
        Self { child: child.unwrap_or_else(|error| panic!("{}: {error}", command.get_program().display())) }
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The processes that are alive. Those that have ended are missed, so what is measured must not end before it is.
    fn members(&self) -> Vec<u32> {
        let processes = fs::read_dir("/proc").unwrap().flatten();
        let ids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        ids.filter(|id| group_of(*id) == Some(self.child.id())).collect()
    }

    /// The time that its processes have been on a processor.
    pub fn cpu(&self) -> Duration {
        self.members().into_iter().map(cpu).sum()
    }

    /// The same of the first process alone, which takes less looking.
    pub fn cpu_of_leader(&self) -> Duration {
        cpu(self.id())
    }

    /// The sum of their resident memory at its highest, in MiB.
    pub fn peak(&self) -> f64 {
        self.members().into_iter().map(|id| memory(id, "status", "VmHWM:")).sum()
    }

    pub fn resident(&self) -> f64 {
        memory(self.id(), "status", "VmRSS:")
    }

    /// Shared pages are divided between those that share them.
    pub fn proportional(&self) -> f64 {
        memory(self.id(), "smaps_rollup", "Pss:")
    }

    pub fn threads(&self) -> usize {
        fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().count()
    }

    /// How often its threads have gone to sleep, which is how often they were woken; preemption counts for nothing.
    pub fn switches(&self) -> u64 {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.id())).unwrap().flatten();
        let statuses = tasks.filter_map(|task| fs::read_to_string(task.path().join("status")).ok());
        statuses
            .map(|status| {
                let lines = status.lines().filter(|line| line.starts_with("voluntary_ctxt_switches:"));
                lines.filter_map(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok()).sum::<u64>()
            })
            .sum()
    }

    pub fn signal(&self, signal: Signal) {
        let _ = killpg(Pid::from_raw(self.id().try_into().unwrap()), signal);
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::SIGKILL);
        let _ = self.child.wait();
    }
}

/// The time that a process has been on a processor, its ended threads left out.
pub fn cpu(id: u32) -> Duration {
    let tasks = fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let times = tasks.filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(times.sum())
}

fn group_of(id: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name before it may hold anything, a parenthesis too.
    stat.rsplit_once(')')?.1.split_whitespace().nth(2)?.parse().ok()
}

fn memory(id: u32, file: &str, field: &str) -> f64 {
    let text = fs::read_to_string(format!("/proc/{id}/{file}")).unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with(field));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<f64>().ok());
    kib.unwrap_or_default() / 1024.0
}

/// Waits until these have had next to nothing to do for a while, by the time they have been on a processor. (mosquitto
/// looks around ten times a second.)
pub fn settled(cpu: impl Fn() -> Duration) {
    const QUIET: Duration = Duration::from_millis(200);
    const NOTHING: Duration = Duration::from_millis(2);
    let deadline = Instant::now() + PATIENCE * 5;
    let (mut last, mut since) = (cpu(), Instant::now());
    while since.elapsed() < QUIET {
        assert!(Instant::now() < deadline, "never at rest");
        sleep(LOOK);
        let now = cpu();
        if now.saturating_sub(last) > NOTHING {
            (last, since) = (now, Instant::now());
        }
    }
}
