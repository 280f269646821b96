//! What can be seen of a command before it runs.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{fs, io};

use super::error::describe;
use super::{CommandSpec, PATH};

/// Why a command could not run as things are now; another command may have mended that by then. What only the agent may
/// look into is not doubted.
pub fn doubt(spec: &CommandSpec) -> Option<String> {
    let program = spec.argv.first()?;
    let problem = program_problem(program).or_else(|| dir_problem(spec.dir.as_deref()?))?;
    Some(format!("{} could not run now: {problem}", describe(spec)))
}

fn program_problem(program: &str) -> Option<String> {
    if program.starts_with('/') {
        return executable(Path::new(program)).err().and_then(|error| told(program, &error));
    }
    // One that is relative to the command's directory may come with the app.
    if program.contains('/')
        || PATH.split(':').any(|dir| executable(&PathBuf::from(dir).join(program)).is_ok())
    {
        return None;
    }
    let advice = if program.contains(' ') { "; each argument is an item of its own in the list" } else { "" };
    Some(format!("no program of this name in {PATH}{advice}"))
}

fn executable(path: &Path) -> io::Result<()> {
    let facts = fs::metadata(path)?;
    if !facts.is_file() {
        return Err(io::Error::other("is no file"));
    }
    if facts.permissions().mode() & 0o111 == 0 { Err(io::Error::other("is not executable")) } else { Ok(()) }
}

fn dir_problem(dir: &Path) -> Option<String> {
    let dir_is_there = fs::metadata(dir)
        .and_then(|facts| if facts.is_dir() { Ok(()) } else { Err(io::Error::other("is no directory")) });
    dir_is_there.err().and_then(|error| told(&dir.to_string_lossy(), &error))
}

fn told(path: &str, error: &io::Error) -> Option<String> {
    (error.kind() != io::ErrorKind::PermissionDenied).then(|| format!("{path}: {error}"))
}
