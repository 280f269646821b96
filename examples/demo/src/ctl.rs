//! A service manager in miniature: stops, starts and looks at services, each a process with a file that it has locked.
//!
//! The kernel says who holds a lock, so there is no process id that could be out of date.

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use clap::ValueEnum;
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Locked by the demo itself.
pub(crate) const ALIVE: &str = "demo.lock";

/// How long a service may take to start, and to stop.
const LIMIT: Duration = Duration::from_secs(10);
/// How often to look.
const LOOK: Duration = Duration::from_millis(2);

/// What a service manager can be asked for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Action {
    /// Stop the service.
    Stop,
    /// Start the service.
    Start,
    /// Exit with 0 when the service runs.
    Status,
}

/// The part of this program that the configuration calls.
pub(crate) fn run(dir: &Path, action: Action, service: &str) -> anyhow::Result<ExitCode> {
    match action {
        Action::Stop => stop(dir, service)?,
        Action::Start => start(dir, service)?,
        Action::Status if running(dir, service)?.is_none() => return Ok(ExitCode::FAILURE),
        Action::Status => {}
    }
    Ok(ExitCode::SUCCESS)
}

/// Ends the service's process and waits until it is gone.
pub(crate) fn stop(dir: &Path, service: &str) -> anyhow::Result<()> {
    for signal in [Signal::SIGTERM, Signal::SIGKILL] {
        let Some(process) = running(dir, service)? else { return Ok(()) };
        match kill(process, signal) {
            Ok(()) | Err(Errno::ESRCH) => {}
            Err(error) => bail!("cannot send {signal} to process {process}: {error}"),
        }
        if within_limit(|| Ok(running(dir, service)?.is_none()))? {
            writeln!(append(&log_file(dir))?, "{service}: process {process} has ended")?;
            return Ok(());
        }
    }
    bail!("{service} does not stop")
}

fn start(dir: &Path, service: &str) -> anyhow::Result<()> {
    if running(dir, service)?.is_some() {
        return Ok(());
    }
    let mut child = spawn(dir, service)?;
    let up = within_limit(|| {
        if let Some(status) = child.try_wait()? {
            bail!("{service} ended at once ({status}): see {}", log_file(dir).display());
        }
        Ok(running(dir, service)?.is_some())
    });
    match up {
        Ok(true) => Ok(()),
        Ok(false) => {
            let _ = child.kill();
            bail!("{service} does not come up")
        }
        Err(error) => Err(error),
    }
}

/// The service's process, which gets a session of its own.
fn spawn(dir: &Path, service: &str) -> anyhow::Result<Child> {
    let log = append(&log_file(dir))?;
    Command::new(std::env::current_exe()?)
        .args(["serve", "--dir"])
        .arg(dir)
        .arg(service)
        .current_dir(dir.join("app"))
        .stdin(Stdio::null())
        .stdout(log.try_clone()?)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot start {service}"))
}

fn running(dir: &Path, service: &str) -> anyhow::Result<Option<Pid>> {
    holder(&lock_file(dir, service))
}

fn within_limit(mut reached: impl FnMut() -> anyhow::Result<bool>) -> anyhow::Result<bool> {
    let deadline = Instant::now() + LIMIT;
    while !reached()? {
        if Instant::now() > deadline {
            return Ok(false);
        }
        thread::sleep(LOOK);
    }
    Ok(true)
}

/// What a service's process locks.
pub(crate) fn lock_file(dir: &Path, service: &str) -> PathBuf {
    dir.join(format!("{service}.lock"))
}

/// Where services, and what updates them, write what they have to say.
pub(crate) fn log_file(dir: &Path) -> PathBuf {
    dir.join("app.log")
}

fn append(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    file.with_context(|| format!("cannot write to {}", path.display()))
}

/// A file that this process has locked, until it ends or drops this.
pub(crate) struct Claim(#[expect(dead_code, reason = "the lock goes when the file is closed")] File);

impl Claim {
    /// Fails when another process holds the file.
    pub(crate) fn take(path: &Path) -> anyhow::Result<Self> {
        let file = open(path)?;
        let claimed = fcntl(file.as_fd(), FcntlArg::F_SETLK(&lock()));
        claimed.with_context(|| format!("cannot lock {}", path.display()))?;
        Ok(Self(file))
    }
}

/// Waits until no process holds the file.
pub(crate) fn wait_for_release(path: &Path) -> anyhow::Result<()> {
    let file = open(path)?;
    fcntl(file.as_fd(), FcntlArg::F_SETLKW(&lock()))
        .with_context(|| format!("cannot wait for {}", path.display()))?;
    Ok(())
}

/// The process that holds the file.
fn holder(path: &Path) -> anyhow::Result<Option<Pid>> {
    let file = open(path)?;
    let mut answer = lock();
    fcntl(file.as_fd(), FcntlArg::F_GETLK(&mut answer))
        .with_context(|| format!("cannot look at the lock of {}", path.display()))?;
    let held = i32::from(answer.l_type) != libc::F_UNLCK;
    Ok(held.then(|| Pid::from_raw(answer.l_pid)))
}

fn open(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
    file.with_context(|| format!("cannot open {}", path.display()))
}

/// The whole file, for this process alone.
fn lock() -> libc::flock {
    #[expect(
        clippy::cast_possible_truncation,
        reason = "small constants, whose type differs between systems"
    )]
    let (kind, from_start) = (libc::F_WRLCK as _, libc::SEEK_SET as _);
    libc::flock { l_type: kind, l_whence: from_start, l_start: 0, l_len: 0, l_pid: 0 }
}
