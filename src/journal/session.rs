//! What the next agent needs to know of the session at the broker: its filters, to remove those no longer wanted, and
//! since when pushes may have been missed should it be gone.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

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
    /// When there was a connection for certain last.
    #[serde(with = "super::time::optional", default)]
    pub connected: Option<SystemTime>,
}

impl Session {
    /// What is known of the session of this client at this broker: nothing when `last` was another one.
    pub fn of(last: Option<Self>, broker: &str, client_id: &str) -> Self {
        last.filter(|it| it.broker == broker && it.client_id == client_id).unwrap_or_else(|| Self {
            broker: broker.to_owned(),
            client_id: client_id.to_owned(),
            filters: BTreeSet::new(),
            connected: None,
        })
    }
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

    /// The session that was remembered last; `None`: the file is missing or damaged. All that is lost then is that an
    /// obsolete filter stays subscribed, whose messages are ignored.
    pub fn read(&self) -> Option<Session> {
        fs::read(&self.0).ok().and_then(|text| serde_json::from_slice(&text).ok())
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
    fn only_the_same_session_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::new(dir.path());
        let known = |client_id| Session::of(file.read(), "b:1883", client_id);
        let mut session = known("web-7");
        assert!(session.filters.is_empty() && session.connected.is_none());
        session.filters.insert("github/+/+".to_owned());
        session.connected = Some(SystemTime::UNIX_EPOCH);
        file.write(&session).unwrap();
        assert_eq!(known("web-7"), session);
        assert!(known("web-8").filters.is_empty());
        assert!(Session::of(file.read(), "c:1883", "web-7").filters.is_empty());
        fs::write(file.path(), "{").unwrap();
        assert!(known("web-7").filters.is_empty());
    }
}
