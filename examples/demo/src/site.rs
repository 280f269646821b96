//! The temporary directory in which everything happens, removed with all that runs in it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::TempDir;

use crate::ctl::{self, Claim};
use crate::repository;
use crate::stage::Stage;

/// The app's service.
pub(crate) const SERVICE: &str = "hello";

/// Where the demo takes place.
pub(crate) struct Site {
    stage: Stage,
    /// Held as long as the demo lives: the app looks at it, lest it outlive a demo that was killed.
    _alive: Claim,
    dir: TempDir,
}

impl Site {
    /// An empty one.
    pub(crate) fn new(stage: &Stage) -> anyhow::Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("instance-agent-demo-")
            .tempdir()
            .context("cannot make a temporary directory")?;
        let alive = Claim::take(&dir.path().join(ctl::ALIVE))?;
        let site = Self { stage: stage.clone(), _alive: alive, dir };
        // A short name for this program.
        let program = std::env::current_exe().context("cannot find this program")?;
        symlink(program, site.demo()).context("cannot link to this program")?;
        stage.follow(&ctl::log_file(site.path()))?;
        Ok(site)
    }

    /// The directory.
    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    /// This program.
    pub(crate) fn demo(&self) -> PathBuf {
        self.path().join("demo")
    }

    /// The repository that stands for GitHub's.
    pub(crate) fn origin(&self) -> PathBuf {
        self.path().join("origin.git")
    }

    /// Where the developer works.
    pub(crate) fn developer(&self) -> PathBuf {
        self.path().join("developer")
    }

    /// The payload of the last push.
    pub(crate) fn payload(&self) -> PathBuf {
        self.path().join(repository::PAYLOAD)
    }

    /// Writes the agent's configuration.
    pub(crate) fn write_config(&self, text: &str) -> anyhow::Result<PathBuf> {
        let path = self.path().join("config.yaml");
        fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Err(error) = ctl::stop(self.path(), SERVICE) {
            self.stage.say(&format!("The app was not stopped: {error:#}"));
        }
    }
}
