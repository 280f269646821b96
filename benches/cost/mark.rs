//! The stop command of what is measured: it says when its `main` began, and to whom it belongs.

use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tempfile::TempDir;

use crate::support::PATIENCE;

/// As the command: the time since 1970, in nanoseconds.
pub fn send(socket: &str) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos();
    let socket_of_ours = UnixDatagram::unbound().unwrap();
    // Nobody listens any more when the measurement is over.
    let _ = socket_of_ours.send_to(&now.to_le_bytes(), socket);
}

/// Where the commands say it.
pub struct Marks {
    directory: TempDir,
    socket: UnixDatagram,
}

impl Marks {
    pub fn listen() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let socket = UnixDatagram::bind(directory.path().join("marks")).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { directory, socket }
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("marks")
    }

    /// The command line that marks.
    pub fn command(&self) -> [String; 3] {
        let program = std::env::current_exe().unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        [text(&program), "--mark".to_owned(), text(&self.path())]
    }

    /// When the next command began.
    pub fn next(&self) -> SystemTime {
        let mut bytes = [0; 16];
        self.socket.recv(&mut bytes).expect("no command was run");
        let nanoseconds = u64::try_from(u128::from_le_bytes(bytes)).unwrap();
        UNIX_EPOCH + Duration::from_nanos(nanoseconds)
    }
}

/// From one to the other, in milliseconds.
pub fn milliseconds(from: SystemTime, to: SystemTime) -> f64 {
    to.duration_since(from).map_or(0.0, |passed| passed.as_secs_f64() * 1e3)
}
