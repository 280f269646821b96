//! The filters that the session at the broker may hold, so that the next agent can remove those no longer wanted.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::store;

/// The session's file below a state directory.
#[derive(Debug, Clone)]
pub struct SessionFile(PathBuf);

/// Whose filters they are: another broker or client id has another session.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Session {
    /// `HOST:PORT`
    pub broker: String,
    /// The client id.
    pub client_id: String,
    /// The filters.
    pub filters: BTreeSet<String>,
}

impl SessionFile {
    /// The file below a state directory.
    pub fn new(state_dir: &Path) -> Self {
        Self(state_dir.join("session.json"))
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The filters of this session; none when the file is missing, damaged, or another session's. All that is lost
    /// then is that an obsolete filter stays subscribed, whose messages are ignored.
    pub fn filters(&self, broker: &str, client_id: &str) -> BTreeSet<String> {
        let session = fs::read(&self.0).ok().and_then(|text| serde_json::from_slice::<Session>(&text).ok());
        session
            .filter(|session| session.broker == broker && session.client_id == client_id)
            .map(|session| session.filters)
            .unwrap_or_default()
    }

    /// Replaces the file.
    pub fn write(&self, session: &Session) -> io::Result<()> {
        store::replace(&self.0, &serde_json::to_vec_pretty(session)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filters_are_those_of_the_same_session_only() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::new(dir.path());
        assert!(file.filters("b:1883", "web-7").is_empty());
        let filters = BTreeSet::from(["github/+/+".to_owned()]);
        let session =
            Session { broker: "b:1883".into(), client_id: "web-7".into(), filters: filters.clone() };
        file.write(&session).unwrap();
        assert_eq!(file.filters("b:1883", "web-7"), filters);
        assert!(file.filters("b:1883", "web-8").is_empty());
        assert!(file.filters("c:1883", "web-7").is_empty());
        fs::write(file.path(), "{").unwrap();
        assert!(file.filters("b:1883", "web-7").is_empty());
    }
}
