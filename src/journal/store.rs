//! The files of the journal: one for each app, replaced atomically and durably.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use crate::config::AppName;

use super::record::{Record, VERSION};

/// The ending of a record's file.
const ENDING: &str = "json";

/// A directory of records.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

/// A file that was not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It, or its directory, cannot be read.
    #[error("{}: cannot be read: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is cut short, or damaged.
    #[error("{}: is damaged: {problem}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

impl Store {
    /// The records below a state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self { dir: state_dir.join("apps") }
    }

    /// Makes the directory.
    pub fn create(&self) -> io::Result<()> {
        fs::create_dir_all(&self.dir)
    }

    /// The file of an app.
    pub fn file(&self, app: &AppName) -> PathBuf {
        self.dir.join(format!("{app}.{ENDING}"))
    }

    /// Every record that can be read, and what was wrong with the others. A directory that is missing holds none.
    pub fn read_all(&self) -> Result<(Vec<Record>, Vec<ReadError>), ReadError> {
        let cannot = |source| ReadError::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok((Vec::new(), Vec::new())),
            entries => entries.map_err(cannot)?,
        };
        let mut records = Vec::new();
        let mut errors = Vec::new();
        for entry in entries {
            let path = entry.map_err(cannot)?.path();
            if path.extension() != Some(OsStr::new(ENDING)) {
                continue;
            }
            match read(&path) {
                Ok(record) => records.push(record),
                Err(error) => errors.push(error),
            }
        }
        records.sort_by(|a, b| a.app.cmp(&b.app));
        Ok((records, errors))
    }

    /// Replaces an app's record: after a crash at any moment, the old or the new one is there.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let file = self.file(&record.app);
        let temporary = file.with_added_extension("new");
        let mut text = serde_json::to_vec_pretty(record)?;
        text.push(b'\n');
        // Readable by the group, for `status`; the directory decides which group that is.
        let mut options = OpenOptions::new();
        let mut new = options.write(true).create(true).truncate(true).mode(0o640).open(&temporary)?;
        new.write_all(&text)?;
        new.sync_all()?;
        fs::rename(&temporary, &file)?;
        File::open(&self.dir)?.sync_all()
    }

    /// Puts a file out of the way under a name that is not read, and says which.
    pub fn set_aside(&self, path: &Path, reason: &str) -> io::Result<PathBuf> {
        for number in 1.. {
            let aside = path.with_added_extension(format!("{reason}-{number}"));
            if !aside.try_exists()? {
                fs::rename(path, &aside)?;
                File::open(&self.dir)?.sync_all()?;
                return Ok(aside);
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    /// Puts an app's record out of the way.
    pub fn set_app_aside(&self, app: &AppName, reason: &str) -> io::Result<PathBuf> {
        self.set_aside(&self.file(app), reason)
    }
}

fn read(path: &Path) -> Result<Record, ReadError> {
    let damaged = |problem: String| ReadError::Damaged { path: path.to_owned(), problem };
    let text = fs::read(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if record.version != VERSION {
        return Err(damaged(format!("its format is {}, this program reads {VERSION}", record.version)));
    }
    if path.file_stem().and_then(OsStr::to_str) != Some(record.app.as_str()) {
        return Err(damaged(format!("it is about the app {}", record.app)));
    }
    Ok(record)
}
