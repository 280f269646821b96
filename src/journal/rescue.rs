//! What it takes to bring services up when the configuration of the next start is invalid.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::service::ManagerChoice;

use super::store;

/// The part of a valid configuration that is kept beside the records.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// What stopped the services.
    pub service_manager: ManagerChoice,
    /// The instance's environment.
    pub environment: Option<String>,
}

/// Its file below a state directory.
#[derive(Debug, Clone)]
pub struct RescueFile(PathBuf);

impl RescueFile {
    /// The file below a state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("rescue.json"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// `None`: it is missing or damaged.
    pub fn read(&self) -> Option<Rescue> {
        serde_json::from_slice(&fs::read(&self.0).ok()?).ok()
    }

    /// Replaces the file, unless it says the same already.
    pub fn write(&self, rescue: &Rescue) -> io::Result<()> {
        if self.read().as_ref() == Some(rescue) {
            return Ok(());
        }
        store::replace(&self.0, &serde_json::to_vec_pretty(rescue)?)
    }
}

#[cfg(test)]
mod tests {
    use crate::service::{CustomManager, Template};

    use super::*;

    #[test]
    fn every_service_manager_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        let file = RescueFile::new(dir.path());
        assert_eq!(file.read(), None);
        let template = |verb: &str| Template::new(vec![verb.into(), "{service}".into()]).unwrap();
        let custom = CustomManager {
            name: "openrc".into(),
            stop: template("stop"),
            start: template("start"),
            status: template("status"),
        };
        let choices = [ManagerChoice::Auto, ManagerChoice::Systemd, ManagerChoice::Upstart];
        for service_manager in choices.into_iter().chain([ManagerChoice::Custom(custom)]) {
            let rescue = Rescue { service_manager, environment: Some("demo".into()) };
            file.write(&rescue).unwrap();
            assert_eq!(file.read(), Some(rescue));
        }
    }

    #[test]
    fn a_damaged_file_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let file = RescueFile::new(dir.path());
        let no_service =
            r#"{"service_manager": {"custom": {"name": "x", "stop": ["a"], "start": [], "status": []}}}"#;
        for text in ["", "{", no_service] {
            fs::write(file.path(), text).unwrap();
            assert_eq!(file.read(), None, "{text}");
        }
    }
}
