//! How a revision is handed to an app: as environment variables named after GitHub Actions', and as a file of them.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::config::AppName;
use crate::router::Revision;

/// The variables that commands, and services that can take them, get.
pub fn environment(
    app: &AppName,
    environment: Option<&str>,
    revision: Option<&Revision>,
    previous: Option<&Revision>,
) -> Vec<(String, String)> {
    let mut variables = vec![("INSTANCE_AGENT_APP", app.to_string())];
    if let Some(environment) = environment {
        variables.push(("INSTANCE_AGENT_ENVIRONMENT", environment.to_owned()));
    }
    if let Some(revision) = revision {
        variables.push(("GITHUB_REPOSITORY", revision.repo.to_string()));
        variables.push(("GITHUB_REF", revision.git_ref.to_string()));
        variables.push(("GITHUB_REF_NAME", revision.git_ref.name().to_owned()));
        variables.push(("GITHUB_SHA", revision.commit.to_string()));
    }
    if let Some(previous) = previous {
        variables.push(("INSTANCE_AGENT_PREVIOUS_SHA", previous.commit.to_string()));
    }
    variables.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

/// Where an app's unit finds its variables: `EnvironmentFile=-/var/lib/instance-agent/env/APP.env`.
pub fn environment_file(state_dir: &Path, app: &AppName) -> PathBuf {
    state_dir.join("env").join(format!("{app}.env"))
}

/// Replaces the file in one step, so that a unit never reads half of it. Whom it is for, systemd, reads it as root.
pub fn write_environment_file(path: &Path, variables: &[(String, String)]) -> io::Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    DirBuilder::new().recursive(true).mode(0o750).create(dir)?;
    let text: String = variables.iter().map(|(name, value)| format!("{name}={}\n", quoted(value))).collect();
    let temporary = path.with_extension("env.new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
    // Whatever the umask says, and an older file.
    file.set_permissions(Permissions::from_mode(0o640))?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(dir)?.sync_all()
}

/// In double quotes, as systemd.exec(5) and shells read it; a ref may hold `$`, quotes and backquotes.
fn quoted(value: &str) -> String {
    let mut text = String::with_capacity(value.len() + 2);
    text.push('"');
    for c in value.chars() {
        if matches!(c, '"' | '\\' | '$' | '`') {
            text.push('\\');
        }
        text.push(c);
    }
    text.push('"');
    text
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_not_for_everybody_whatever_the_umask_says() {
        let state = tempfile::tempdir().unwrap();
        let path = environment_file(state.path(), &"api".parse().unwrap());
        write_environment_file(&path, &[("A".into(), "1".into())]).unwrap();
        // Left by an agent that was killed.
        let left = path.with_extension("env.new");
        fs::write(&left, "half").unwrap();
        fs::set_permissions(&left, Permissions::from_mode(0o644)).unwrap();
        write_environment_file(&path, &[("A".into(), "1".into())]).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o7777;
        assert_eq!((mode(path.parent().unwrap()), mode(&path)), (0o750, 0o640));
    }
}
