//! The users that commands run as, and the change to them.

use std::convert::Infallible;
use std::ffi::{CString, OsStr, OsString};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs, io};

use nix::unistd::{
    AccessFlags, Uid, User, access, dup2_stderr, geteuid, getresgid, getresuid, initgroups, setgid, setuid,
};

use super::error::StartError;

/// The exit code of a process whose [`exec_as`] failed: as env(1), nice(1) and timeout(1) have it.
pub const EXEC_FAILED: u8 = 125;

/// What of a user a command gets to see.
#[derive(Debug, Clone)]
pub(super) struct Account {
    name: String,
    home: PathBuf,
    shell: PathBuf,
}

impl Account {
    /// The agent's own. A user without an entry in the user database, as in containers, goes by its number.
    pub(super) fn own() -> Self {
        let uid = geteuid();
        let nameless = || Self { name: uid.to_string(), home: "/".into(), shell: "/bin/sh".into() };
        User::from_uid(uid).ok().flatten().map_or_else(nameless, Self::from)
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn is(&self, user: &str) -> bool {
        self.name == user
    }

    pub(super) fn variables(&self) -> [(&'static str, &OsStr); 4] {
        let name = OsStr::new(&self.name);
        [("HOME", self.home.as_ref()), ("USER", name), ("LOGNAME", name), ("SHELL", self.shell.as_ref())]
    }

    /// Where a command runs: where it is wished, else at home, else at the root.
    pub(super) fn dir<'a>(&'a self, wished: Option<&'a Path>) -> &'a Path {
        wished.unwrap_or_else(|| if enter(&self.home).is_ok() { &self.home } else { Path::new("/") })
    }
}

impl From<User> for Account {
    fn from(user: User) -> Self {
        let shell = if user.shell.as_os_str().is_empty() { "/bin/sh".into() } else { user.shell };
        Self { name: user.name, home: user.dir, shell }
    }
}

/// Which of directory and program kept a process from becoming the program. Both fail with the same codes.
pub(super) fn blame(error: io::Error, dir: &Path, program: &OsStr) -> StartError {
    if let Err(error) = enter(dir) {
        return StartError::Directory { dir: dir.into(), error };
    }
    let program = program.to_string_lossy();
    let exists = program.contains('/') && dir.join(&*program).exists();
    StartError::program(&program, exists, error)
}

/// Whether this process could enter the directory.
fn enter(dir: &Path) -> io::Result<()> {
    if !fs::metadata(dir)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    Ok(access(dir, AccessFlags::X_OK)?)
}

/// The arguments that make this program call [`exec_as`].
pub(super) fn arguments(user: &str, dir: Option<&Path>, argv: &[String]) -> Vec<OsString> {
    let mut arguments = vec![OsString::from("exec-as"), format!("--user={user}").into()];
    if let Some(dir) = dir {
        let mut argument = OsString::from("--dir=");
        argument.push(dir);
        arguments.push(argument);
    }
    arguments.push("--".into());
    arguments.extend(argv.iter().map(OsString::from));
    arguments
}

/// Becomes the user for good, enters the directory with that user's rights, and becomes the command. What
/// `instance-agent exec-as --user=USER [--dir=DIR] -- ARGV…` does; it prints the error to standard error and
/// exits with [`EXEC_FAILED`].
///
/// The command gets this process's environment and, where that lacks them, the user's HOME, USER, LOGNAME and
/// SHELL. Its standard error is this process's standard output: this one's own standard error closes when the
/// command begins, so whatever is written there comes from here.
pub fn exec_as(user: &str, dir: Option<&Path>, argv: &[OsString]) -> Result<Infallible, StartError> {
    let (program, arguments) = argv.split_first().ok_or(StartError::Empty)?;
    let user = find(user)?;
    change_to(&user)?;
    let account = Account::from(user);
    let dir = account.dir(dir);
    let missing = account.variables().into_iter().filter(|(name, _)| env::var_os(name).is_none());
    let mut command = Command::new(program);
    command.args(arguments).current_dir(dir).envs(missing);
    replace(command).map_err(|error| blame(error, dir, program))
}

fn find(user: &str) -> Result<User, StartError> {
    match User::from_name(user) {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(StartError::UnknownUser { user: user.into() }),
        Err(error) => Err(StartError::LookUp { user: user.into(), error: error.into() }),
    }
}

fn change_to(user: &User) -> Result<(), StartError> {
    let refused = |error| StartError::Become { user: user.name.clone(), error };
    if is_permanent(user).map_err(refused)? {
        Ok(())
    } else {
        Err(StartError::Undoable { user: user.name.clone() })
    }
}

/// Changes to the user; false when there is a way back to root.
fn is_permanent(user: &User) -> io::Result<bool> {
    // Groups first: afterwards the right to change them is gone.
    initgroups(&CString::new(user.name.as_str())?, user.gid)?;
    setgid(user.gid)?;
    setuid(user.uid)?;
    let (uids, gids) = (getresuid()?, getresgid()?);
    let changed = [uids.real, uids.effective, uids.saved].iter().all(|&uid| uid == user.uid)
        && [gids.real, gids.effective, gids.saved].iter().all(|&gid| gid == user.gid);
    Ok(changed && (user.uid.is_root() || setuid(Uid::from_raw(0)).is_err()))
}

/// Only returns when it fails, with standard error as it was.
fn replace(mut command: Command) -> io::Result<Infallible> {
    let reports = io::stderr().as_fd().try_clone_to_owned()?;
    let output = io::stdout().as_fd().try_clone_to_owned()?;
    let error = command.stderr(output).exec();
    dup2_stderr(&reports)?;
    Err(error)
}
