//! Tells the spectator what happens: the demo's own words, the agent's log and the app's, in the order of events.

use std::env;
use std::fs::File;
use std::io::{self, IsTerminal, Read, Write};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::Context;

const BOLD: &str = "\x1b[1m";
const GREEN: &str = "\x1b[32m";
const YELLOW: &str = "\x1b[33m";
const CYAN: &str = "\x1b[36m";

/// Standard output, shared by all who have something to say.
#[derive(Clone)]
pub(crate) struct Stage {
    colours: bool,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Default)]
struct Inner {
    headings: u32,
    /// The app's log, read up to where it was shown.
    log: Option<File>,
    /// The beginning of a line of it.
    begun: Vec<u8>,
}

impl Stage {
    /// With colours on a terminal, unless `NO_COLOR` says otherwise.
    pub(crate) fn new() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self { colours: wanted && io::stdout().is_terminal(), inner: Arc::default() }
    }

    /// Whether there are colours.
    pub(crate) fn colours(&self) -> bool {
        self.colours
    }

    /// From now on shows what is appended to this file, before anything that is said later.
    pub(crate) fn follow(&self, path: &Path) -> anyhow::Result<()> {
        let file = File::create(path).and_then(|_| File::open(path));
        self.lock().log = Some(file.with_context(|| format!("cannot make {}", path.display()))?);
        Ok(())
    }

    /// Shows what the app has said meanwhile.
    pub(crate) fn catch_up(&self) {
        self.lines(&[]);
    }

    /// Begins the next part.
    pub(crate) fn heading(&self, text: &str) {
        let number = {
            let mut inner = self.lock();
            inner.headings += 1;
            inner.headings
        };
        self.lines(&[String::new(), self.painted(BOLD, &format!("{number}. {text}"))]);
    }

    /// Says something in plain words.
    pub(crate) fn say(&self, text: &str) {
        self.lines(&text.lines().map(|line| format!("   {line}").trim_end().to_owned()).collect::<Vec<_>>());
    }

    /// Shows a command that is run, and in which directory.
    pub(crate) fn command(&self, dir: &str, text: &str) {
        self.say(&self.painted(CYAN, &format!("{dir}$ {text}")));
    }

    /// Says that something is as it should be.
    pub(crate) fn check(&self, text: &str) {
        self.say(&format!("{} {text}", self.painted(GREEN, "✓")));
    }

    /// Shows lines of the agent's log.
    pub(crate) fn agent(&self, text: &str) {
        let prefix = self.painted(YELLOW, "agent │");
        self.lines(&text.lines().map(|line| format!("   {prefix} {line}")).collect::<Vec<_>>());
    }

    fn lines(&self, lines: &[String]) {
        let mut inner = self.lock();
        let prefix = self.painted(GREEN, "app   │");
        let news = inner.news().into_iter().map(|line| format!("   {prefix} {line}"));
        let text: String = news.chain(lines.iter().cloned()).map(|line| line + "\n").collect();
        let mut out = io::stdout().lock();
        // A spectator who has left is no reason to end badly.
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }

    fn painted(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("{colour}{text}\x1b[0m") } else { text.to_owned() }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    /// The whole lines that the app's log has grown by.
    fn news(&mut self) -> Vec<String> {
        if let Some(log) = &mut self.log {
            // What cannot be read now may be next time.
            let _ = log.read_to_end(&mut self.begun);
        }
        let whole = self.begun.iter().rposition(|byte| *byte == b'\n').map_or(0, |last| last + 1);
        let text: Vec<u8> = self.begun.drain(..whole).collect();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }
}
