//! `instance-agent status` and `instance-agent history`: what the journal says, whether or not the agent runs.

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde::Serialize;

use crate::config::{self, AppName};
use crate::journal::{Entry, Record, Store};
use crate::outcome::Verdict;
use crate::router::Revision;
use crate::service::ServiceName;

use super::{ConfigArgs, exit, output};

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(super) struct StatusArgs {
    #[command(flatten)]
    config: ConfigArgs,
    /// One JSON document instead of a table
    #[arg(long)]
    json: bool,
}

/// Arguments of `history`.
#[derive(Debug, Args)]
pub(super) struct HistoryArgs {
    /// Only this app
    app: Option<String>,
    #[command(flatten)]
    common: StatusArgs,
}

/// What an app is doing, in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// No push has come yet.
    New,
    /// What is desired runs.
    Deployed,
    /// Something is desired that does not run yet.
    Pending,
    /// A deploy runs, or was running when the agent ended.
    Deploying,
    /// What is desired could not be deployed: it waits for a new push.
    Failed,
}

impl State {
    fn of(record: &Record) -> Self {
        match &record.desired {
            _ if record.attempt.is_some() => Self::Deploying,
            _ if record.pending().is_some() => Self::Pending,
            Some(desired) if desired.failed => Self::Failed,
            _ if record.deployed.is_some() => Self::Deployed,
            _ => Self::New,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Deployed => "deployed",
            Self::Pending => "pending",
            Self::Deploying => "deploying",
            Self::Failed => "failed",
        }
    }

    fn paint(self) -> Paint {
        match self {
            Self::New => Paint::None,
            Self::Deployed => Paint::Green,
            Self::Pending | Self::Deploying => Paint::Yellow,
            Self::Failed => Paint::Red,
        }
    }
}

/// One app, for `status --json`.
#[derive(Serialize)]
struct AppStatus<'a> {
    app: &'a AppName,
    repository: &'a str,
    services: Vec<&'a str>,
    state: State,
    deployed: Option<&'a Revision>,
    desired: Option<&'a Revision>,
    attempts: u32,
    superseded: u64,
    last_outcome: Option<&'a Entry>,
}

/// One outcome, for `history --json`.
#[derive(Serialize)]
struct AppEntry<'a> {
    app: &'a AppName,
    #[serde(flatten)]
    entry: &'a Entry,
}

pub(super) fn status(args: StatusArgs) -> ExitCode {
    let journal = match read(args.config) {
        Ok(journal) => journal,
        Err(problem) => return problem,
    };
    output::print(|out| {
        if args.json {
            json(out, &journal.records.iter().map(app_status).collect::<Vec<_>>())
        } else {
            status_table(&journal.records).write(out, &journal.state_dir)
        }
    })
}

pub(super) fn history(args: HistoryArgs) -> ExitCode {
    let mut journal = match read(args.common.config) {
        Ok(journal) => journal,
        Err(problem) => return problem,
    };
    let records = &mut journal.records;
    if let Some(app) = &args.app {
        records.retain(|record| record.app.as_str() == app);
        if records.is_empty() {
            output::complain(format_args!(
                "instance-agent: no app {app:?} has a record in {}: see `instance-agent status`",
                journal.state_dir.display()
            ));
            return ExitCode::from(exit::FAILED);
        }
    }
    let mut entries: Vec<_> = records
        .iter()
        .flat_map(|record| record.outcomes.iter().map(|entry| AppEntry { app: &record.app, entry }))
        .collect();
    entries.sort_by_key(|it| it.entry.started_at);
    output::print(|out| {
        if args.common.json {
            json(out, &entries)
        } else {
            history_table(&entries).write(out, &journal.state_dir)
        }
    })
}

/// The records of all apps, and where they are.
struct Journal {
    state_dir: PathBuf,
    records: Vec<Record>,
}

/// The journal below the state directory of the configuration, so far as that can be read.
fn read(config: ConfigArgs) -> Result<Journal, ExitCode> {
    let request = config.into_request();
    let state_dir = config::state_dir(&request);
    if let Some((file, error)) = config::unread_file(&request) {
        let (file, dir) = (file.display(), state_dir.display());
        output::complain(format_args!(
            "instance-agent: warning: {file}: {error}; it may name another state directory than {dir}"
        ));
    }
    if !state_dir.is_dir() {
        output::complain(format_args!(
            "instance-agent: {} is no directory that can be looked into: no agent has run with this configuration, or only \
             its user and group may read its state",
            state_dir.display()
        ));
        return Err(ExitCode::from(exit::FAILED));
    }
    let store = Store::new(&state_dir);
    let (records, damaged) = store.read_all().map_err(|error| exit::failure(&error, exit::FAILED))?;
    for problem in &damaged {
        output::complain(format_args!("instance-agent: {problem}"));
    }
    // Nothing to show, but not for want of pushes.
    if records.is_empty() && !damaged.is_empty() {
        return Err(ExitCode::from(exit::FAILED));
    }
    Ok(Journal { state_dir, records })
}

fn app_status(record: &Record) -> AppStatus<'_> {
    AppStatus {
        app: &record.app,
        repository: record.repository.as_str(),
        services: record.services.iter().map(ServiceName::as_str).collect(),
        state: State::of(record),
        deployed: record.deployed.as_ref(),
        desired: record.desired.as_ref().map(|desired| &desired.revision),
        attempts: record.desired.as_ref().map_or(0, |desired| desired.attempts),
        superseded: record.superseded,
        last_outcome: record.outcomes.back(),
    }
}

fn status_table(records: &[Record]) -> Table {
    let mut table = Table::new(&["APP", "STATE", "DEPLOYED", "DESIRED", "LAST OUTCOME"]);
    for record in records {
        let state = State::of(record);
        let desired = record.desired.as_ref().map(|desired| &desired.revision);
        table.rows.push(vec![
            Cell::plain(record.app.as_str()),
            Cell { text: state.as_str().to_owned(), paint: state.paint() },
            Cell::plain(revision(record.deployed.as_ref())),
            Cell::plain(revision(desired)),
            Cell::plain(record.outcomes.back().map(last_outcome).unwrap_or_default()),
        ]);
    }
    table
}

fn revision(revision: Option<&Revision>) -> String {
    revision.map_or("-".to_owned(), |it| format!("{} {}", it.git_ref.name(), it.commit.short()))
}

fn last_outcome(entry: &Entry) -> String {
    let when = humantime::format_rfc3339_seconds(entry.started_at);
    let what = entry.outcome.as_str();
    match (&entry.step, &entry.error) {
        (Some(step), Some(error)) => format!("{when} {what} at {step}: {error}"),
        (None, Some(error)) => format!("{when} {what}: {error}"),
        _ => format!("{when} {what}"),
    }
}

fn history_table(entries: &[AppEntry<'_>]) -> Table {
    let mut table = Table::new(&["TIME", "APP", "OUTCOME", "REF", "COMMIT", "ATTEMPT", "TOOK", "WHY"]);
    for AppEntry { app, entry } in entries {
        let took =
            entry.duration_ms.map(|ms| humantime::format_duration(Duration::from_millis(ms)).to_string());
        let why = match (&entry.step, &entry.error) {
            (Some(step), Some(error)) => format!("{step}: {error}"),
            (_, error) => error.clone().unwrap_or_default(),
        };
        let paint = match entry.outcome {
            Verdict::Deployed => Paint::Green,
            Verdict::Failed => Paint::Red,
            Verdict::Interrupted | Verdict::Dropped => Paint::Yellow,
        };
        table.rows.push(vec![
            Cell::plain(humantime::format_rfc3339_seconds(entry.started_at).to_string()),
            Cell::plain(app.as_str()),
            Cell { text: entry.outcome.as_str().to_owned(), paint },
            Cell::plain(entry.git_ref.name()),
            Cell::plain(entry.sha.short()),
            Cell::plain(entry.attempt.to_string()),
            Cell::plain(took.unwrap_or_else(|| "-".to_owned())),
            Cell::plain(why),
        ]);
    }
    table
}

fn json(out: &mut dyn Write, value: &impl Serialize) -> io::Result<ExitCode> {
    serde_json::to_writer_pretty(&mut *out, value)?;
    writeln!(out)?;
    Ok(ExitCode::SUCCESS)
}

#[derive(Clone, Copy)]
enum Paint {
    None,
    Green,
    Yellow,
    Red,
}

struct Cell {
    text: String,
    paint: Paint,
}

impl Cell {
    fn plain(text: impl Into<String>) -> Self {
        Self { text: text.into(), paint: Paint::None }
    }
}

/// Rows under a head, each column as wide as its widest cell.
struct Table {
    head: Vec<&'static str>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    fn new(head: &[&'static str]) -> Self {
        Self { head: head.to_vec(), rows: Vec::new() }
    }

    fn write(&self, out: &mut dyn Write, state_dir: &Path) -> io::Result<ExitCode> {
        if self.rows.is_empty() {
            writeln!(out, "No app has a record in {} yet: no push has come.", state_dir.display())?;
        } else {
            let colour = output::in_colour(&io::stdout());
            self.write_to(out, colour)?;
        }
        Ok(ExitCode::SUCCESS)
    }

    fn write_to(&self, out: &mut dyn Write, colour: bool) -> io::Result<()> {
        let widest = |column: usize| {
            let cells =
                self.rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.text.chars().count());
            cells.chain(self.head.get(column).map(|head| head.len())).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..self.head.len()).map(widest).collect();
        let heads: Vec<String> =
            self.head.iter().zip(&widths).map(|(head, width)| format!("{head:width$}")).collect();
        writeln!(out, "{}", heads.join("  ").trim_end())?;
        for row in &self.rows {
            let cells = row.iter().zip(&widths).map(|(cell, width)| painted(cell, *width, colour));
            writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
        }
        Ok(())
    }
}

fn painted(cell: &Cell, width: usize, colour: bool) -> String {
    let text = format!("{:width$}", cell.text);
    match cell.paint {
        Paint::Green if colour => format!("\x1b[32m{text}\x1b[0m"),
        Paint::Yellow if colour => format!("\x1b[33m{text}\x1b[0m"),
        Paint::Red if colour => format!("\x1b[31m{text}\x1b[0m"),
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use crate::journal::Rescue;

    use super::*;

    fn table_of(records: &[Record], colour: bool) -> String {
        let mut out = Vec::new();
        status_table(records).write_to(&mut out, colour).unwrap();
        String::from_utf8(out).unwrap()
    }

    fn pushed(app: &str) -> Record {
        let mut record = Record::for_test(app, "o/r");
        record.admit(&Revision::for_test('b'), false, SystemTime::UNIX_EPOCH);
        record
    }

    fn ended(app: &str, verdict: Verdict) -> Record {
        let mut record = pushed(app);
        let attempt = record.begin(true, Rescue::default(), SystemTime::UNIX_EPOCH).unwrap();
        let why = if verdict == Verdict::Deployed { String::new() } else { "no space left".to_owned() };
        record.end(Entry::without_attempt(verdict, &attempt.revision, SystemTime::UNIX_EPOCH, why), 0);
        record
    }

    #[test]
    fn each_state_has_its_word() {
        assert_eq!(State::of(&Record::for_test("api", "o/r")), State::New);
        assert_eq!(State::of(&pushed("api")), State::Pending);
        let mut deploying = pushed("api");
        deploying.begin(false, Rescue::default(), SystemTime::UNIX_EPOCH);
        assert_eq!(State::of(&deploying), State::Deploying);
        assert_eq!(State::of(&ended("api", Verdict::Deployed)), State::Deployed);
        assert_eq!(State::of(&ended("api", Verdict::Failed)), State::Failed);
        assert_eq!(State::of(&ended("api", Verdict::Interrupted)), State::Pending);
    }

    #[test]
    fn the_table_is_aligned_and_coloured_only_on_a_terminal() {
        let records = [ended("a-long-name", Verdict::Failed), pushed("api")];
        let plain = table_of(&records, false);
        let lines: Vec<&str> = plain.lines().collect();
        assert_eq!(lines[0], "APP          STATE    DEPLOYED  DESIRED       LAST OUTCOME");
        assert_eq!(
            lines[1],
            "a-long-name  failed   -         main bbbbbbb  1970-01-01T00:00:00Z failed: no space left"
        );
        assert_eq!(lines[2], "api          pending  -         main bbbbbbb");
        assert!(table_of(&records, true).contains("\x1b[31mfailed "));
    }
}
