//! The files of the journal: one for each app, replaced atomically and durably.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, getegid, geteuid};
use serde::Deserialize;

use tracing::warn;

use crate::config::AppName;

use super::record::{Record, VERSION};

/// Whoever is in this group may see `status` and `history`.
const GROUP: &str = "instance-agent";
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

    /// Makes the directory, readable by the agent's group where there is one and the disk lets it.
    pub fn create(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o750).create(&self.dir)?;
        if let Err(error) = self.share_with_group() {
            warn!(dir = %self.dir.display(), %error, "cannot hand the journal to the group {GROUP}: only root reads it");
        }
        Ok(())
    }

    fn share_with_group(&self) -> io::Result<()> {
        if !geteuid().is_root() {
            return Ok(());
        }
        let groups = match fs::read("/etc/group") {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            groups => groups?,
        };
        let Some(group) = local_group(&String::from_utf8_lossy(&groups)) else { return Ok(()) };
        // The bit in front hands the group on to the files; those of a process of the group have it anyhow, and in the
        // sandbox of the unit it may not be set.
        let (gid, mode) = (group.as_raw(), if getegid() == group { 0o750 } else { 0o2750 });
        let now = fs::metadata(&self.dir)?;
        if now.gid() != gid || now.mode() & 0o7777 != mode {
            chown(&self.dir, None, Some(gid))?;
            fs::set_permissions(&self.dir, Permissions::from_mode(mode))?;
        }
        Ok(())
    }

    /// The file of an app.
    pub fn file(&self, app: &AppName) -> PathBuf {
        self.dir.join(format!("{app}.{ENDING}"))
    }

    /// Every record that can be read, and what was wrong with the others. A directory that is missing holds none.
    pub fn read_all(&self) -> Result<(Vec<Record>, Vec<ReadError>), ReadError> {
        let cannot = |source| ReadError::Io { path: self.dir.clone(), source };
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok((Vec::new(), Vec::new()));
            }
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

    /// Replaces an app's record.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let mut text = serde_json::to_vec(record)?;
        text.push(b'\n');
        replace(&self.file(&record.app), &text)
    }

    /// Puts a file out of the way under a name that is not read, and says which.
    pub fn set_aside(&self, path: &Path, reason: &str) -> io::Result<PathBuf> {
        for number in 1.. {
            let aside = with_ending(path, &format!("{reason}-{number}"));
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

/// The group's id, by group(5). The package makes it there; who asks all that nsswitch.conf names in vain keeps their
/// libraries loaded, 0.7 MB of memory.
fn local_group(groups: &str) -> Option<Gid> {
    let fields = groups.lines().map(|line| line.split(':').collect::<Vec<_>>());
    fields
        .filter(|fields| fields[0] == GROUP)
        .find_map(|fields| fields.get(2)?.parse().ok())
        .map(Gid::from_raw)
}

/// Replaces a file: after a crash at any moment, the old or the new content is there, and once this has returned, the
/// new.
pub(super) fn replace(path: &Path, content: &[u8]) -> io::Result<()> {
    let temporary = with_ending(path, "new");
    replacement(path, &temporary, content).iter().try_for_each(Operation::perform)
}

/// The new content is on disk before it gets the name, and the name before this counts as done.
fn replacement<'a>(path: &'a Path, temporary: &'a Path, content: &'a [u8]) -> [Operation<'a>; 4] {
    let dir = path.parent().unwrap_or(Path::new("/"));
    [
        Operation::Write(temporary, content),
        Operation::Sync(temporary),
        Operation::Rename(temporary, path),
        Operation::Sync(dir),
    ]
}

/// One step of a replacement, after which a crash may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operation<'a> {
    Write(&'a Path, &'a [u8]),
    /// Of a file, or of a directory.
    Sync(&'a Path),
    Rename(&'a Path, &'a Path),
}

impl Operation<'_> {
    fn perform(&self) -> io::Result<()> {
        match *self {
            Self::Write(path, content) => {
                // Readable by the group, for `status`; the directory decides which group that is.
                let mut options = OpenOptions::new();
                let mut new = options.write(true).create(true).truncate(true).mode(0o640).open(path)?;
                // Whatever the umask says.
                new.set_permissions(Permissions::from_mode(0o640))?;
                new.write_all(content)
            }
            Self::Sync(path) => File::open(path)?.sync_all(),
            Self::Rename(from, to) => fs::rename(from, to),
        }
    }
}

/// Looked at first: another format may have anything else in other ways.
#[derive(Deserialize)]
struct Format {
    version: u32,
}

/// `api.json` and `new` → `api.json.new`
fn with_ending(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(ending);
    PathBuf::from(name)
}

fn read(path: &Path) -> Result<Record, ReadError> {
    let damaged = |problem: String| ReadError::Damaged { path: path.to_owned(), problem };
    let text = fs::read(path).map_err(|source| ReadError::Io { path: path.to_owned(), source })?;
    let Format { version } = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if version != VERSION {
        return Err(damaged(format!("its format is {version}, this program reads {VERSION}")));
    }
    let record: Record = serde_json::from_slice(&text).map_err(|error| damaged(error.to_string()))?;
    if path.file_stem().and_then(OsStr::to_str) != Some(record.app.as_str()) {
        return Err(damaged(format!("it is about the app {}", record.app)));
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::new(dir.path());
        store.create().unwrap();
        (dir, store)
    }

    #[test]
    fn the_group_is_looked_up_in_the_hosts_own_list() {
        let groups = "root:x:0:\ninstance-agents:x:7:\n+\ninstance-agent:x:998:mona,hubot\nusers:x:100:\n";
        assert_eq!(local_group(groups), Some(Gid::from_raw(998)));
        assert_eq!(local_group("root:x:0:\ninstance-agent:x\n"), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let (_dir, store) = store();
        let record = Record::for_test("api", "o/r");
        store.write(&record).unwrap();
        store.write(&record).unwrap();
        let (records, errors) = store.read_all().unwrap();
        assert_eq!(records, [record]);
        assert!(errors.is_empty());
    }

    #[test]
    fn a_missing_directory_holds_no_record() {
        let dir = tempfile::tempdir().unwrap();
        let (records, errors) = Store::new(&dir.path().join("none")).read_all().unwrap();
        assert!(records.is_empty() && errors.is_empty());
    }

    #[test]
    fn every_cut_and_every_broken_byte_is_noticed_or_harmless() {
        let (_dir, store) = store();
        let record = Record::for_test("api", "o/r");
        store.write(&record).unwrap();
        let file = store.file(&record.app);
        let whole = fs::read(&file).unwrap();
        // The last byte is the newline after the document.
        for cut in 0..whole.len() - 1 {
            fs::write(&file, &whole[..cut]).unwrap();
            let (records, errors) = store.read_all().unwrap();
            assert!(records.is_empty(), "cut at {cut}");
            assert!(matches!(errors[..], [ReadError::Damaged { .. }]), "cut at {cut}: {errors:?}");
        }
        for at in 0..whole.len() {
            let mut broken = whole.clone();
            broken[at] = b'\xff';
            fs::write(&file, &broken).unwrap();
            store.read_all().unwrap();
        }
    }

    #[test]
    fn another_format_and_another_apps_record_are_not_taken_for_ours() {
        let (_dir, store) = store();
        let mut record = Record::for_test("api", "o/r");
        record.version = 2;
        store.write(&record).unwrap();
        let (records, errors) = store.read_all().unwrap();
        assert!(records.is_empty());
        assert!(errors[0].to_string().ends_with("its format is 2, this program reads 1"), "{}", errors[0]);
        record.version = VERSION;
        store.write(&record).unwrap();
        fs::rename(store.file(&record.app), store.dir.join("other.json")).unwrap();
        let (records, errors) = store.read_all().unwrap();
        assert!(records.is_empty());
        assert!(errors[0].to_string().ends_with("it is about the app api"), "{}", errors[0]);
    }

    #[test]
    fn what_is_owed_a_start_is_kept_and_a_record_without_it_is_read() {
        let (_dir, store) = store();
        let mut record = Record::for_test("api", "o/r");
        for owed in [vec!["front.service".parse().unwrap()], Vec::new()] {
            record.owed = owed;
            store.write(&record).unwrap();
            let text = fs::read_to_string(store.file(&record.app)).unwrap();
            assert_eq!(text.contains("owed"), !record.owed.is_empty());
            assert_eq!(store.read_all().unwrap().0, [record.clone()]);
        }
    }

    #[test]
    fn files_set_aside_are_kept_and_not_read() {
        let (_dir, store) = store();
        let record = Record::for_test("api", "o/r");
        for number in 1..=2 {
            store.write(&record).unwrap();
            let aside = store.set_app_aside(&record.app, "removed").unwrap();
            assert!(aside.ends_with(format!("api.json.removed-{number}")), "{}", aside.display());
            assert!(aside.exists());
        }
        assert!(store.read_all().unwrap().0.is_empty());
    }

    /// What a disk may hold of the file and its temporary after a crash behind the first operations: one that was not
    /// followed by its sync has happened, or not, or in part, and in any order with others.
    fn after_a_crash<'a>(done: &[Operation<'a>], path: &Path, old: &'a [u8]) -> Vec<Disk<'a>> {
        let mut disks = vec![Disk { file: old, temporary: None }];
        let synced = |path: &Path, since: usize| done[since..].contains(&Operation::Sync(path));
        for (at, operation) in done.iter().enumerate() {
            disks = match *operation {
                Operation::Write(to, content) if synced(to, at) => {
                    disks.iter().map(|disk| Disk { temporary: Some(content), ..*disk }).collect()
                }
                Operation::Write(_, content) => {
                    let states = |disk: Disk<'a>| {
                        let cuts = (0..=content.len())
                            .map(move |cut| Disk { temporary: Some(&content[..cut]), ..disk });
                        cuts.chain([disk])
                    };
                    disks.into_iter().flat_map(states).collect()
                }
                Operation::Rename(_, to) => {
                    assert_eq!(to, path);
                    let renamed =
                        |disk: &Disk<'a>| Disk { file: disk.temporary.unwrap_or_default(), temporary: None };
                    let happened: Vec<_> = disks.iter().map(renamed).collect();
                    let dir = path.parent().unwrap();
                    if synced(dir, at) { happened } else { [disks, happened].concat() }
                }
                Operation::Sync(_) => disks,
            };
        }
        disks
    }

    #[derive(Debug, Clone, Copy)]
    struct Disk<'a> {
        file: &'a [u8],
        temporary: Option<&'a [u8]>,
    }

    #[test]
    fn a_crash_at_any_moment_leaves_the_old_or_the_new_record() {
        let (_dir, store) = store();
        let old = Record::for_test("api", "o/r");
        let mut new = old.clone();
        new.superseded = 7;
        let path = store.file(&old.app);
        let temporary = with_ending(&path, "new");
        let [old_text, content] = [&old, &new].map(|record| serde_json::to_vec(record).unwrap());
        let operations = replacement(&path, &temporary, &content);
        let mut seen = [false; 2];
        for count in 0..=operations.len() {
            for disk in after_a_crash(&operations[..count], &path, &old_text) {
                fs::write(&path, disk.file).unwrap();
                let _ = fs::remove_file(&temporary);
                disk.temporary.map_or(Ok(()), |content| fs::write(&temporary, content)).unwrap();
                let (records, errors) = store.read_all().unwrap();
                assert!(errors.is_empty(), "{errors:?} after {count} operations");
                let expected = if disk.file == content { &new } else { &old };
                assert_eq!(records, std::slice::from_ref(expected), "after {count} operations");
                seen[usize::from(disk.file == content)] = true;
                assert!(count < operations.len() || disk.file == content, "done, but the old one is there");
            }
        }
        assert_eq!(seen, [true; 2]);
    }
}
