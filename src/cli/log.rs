//! Logging: one event a line on standard error, facts as fields.

use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::sync::OnceLock;

use clap::{Args, ValueEnum};
use nix::sys::stat::fstat;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::field::RecordFields;
use tracing_subscriber::filter::LevelFilter;
use tracing_subscriber::fmt::format::{Compact, DefaultFields, Format, Json, JsonFields, Writer};
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::ec2::InstanceId;

use super::output;

/// In every line once it is known: collectors mix the lines of many instances.
static INSTANCE: OnceLock<InstanceId> = OnceLock::new();

/// From now on each line says which instance it comes from.
pub(super) fn name_instance(id: &InstanceId) {
    // Set already: an instance keeps its id.
    let _ = INSTANCE.set(id.clone());
}

/// How to log.
#[derive(Debug, Args)]
pub(super) struct LogArgs {
    /// Log lines for people, or one JSON object a line for collectors
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT")]
    log_format: LogFormat,
    /// The least important events to log
    #[arg(long, value_enum, default_value_t = LogLevel::Info, value_name = "LEVEL")]
    log_level: LogLevel,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

impl LogArgs {
    /// Sends events to standard error from now on.
    pub(super) fn start(&self) {
        let level = match self.log_level {
            LogLevel::Error => LevelFilter::ERROR,
            LogLevel::Warn => LevelFilter::WARN,
            LogLevel::Info => LevelFilter::INFO,
            LogLevel::Debug => LevelFilter::DEBUG,
            LogLevel::Trace => LevelFilter::TRACE,
        };
        // A log that takes no lines must not stop deploys; the library would panic to say so.
        let base = tracing_subscriber::fmt()
            .with_max_level(level)
            .with_writer(io::stderr)
            .with_target(false)
            .log_internal_errors(false);
        match self.log_format {
            LogFormat::Json => base.fmt_fields(JsonFields::new()).event_format(Line::of_json()).init(),
            LogFormat::Text if is_journal() => {
                base.fmt_fields(WithInstance).with_ansi(false).event_format(Line::for_journal()).init();
            }
            LogFormat::Text => {
                base.fmt_fields(WithInstance).with_ansi(output::in_colour(&io::stderr())).compact().init();
            }
        }
    }
}

/// True when standard error is the journal's own socket (systemd.exec(5), `$JOURNAL_STREAM`).
fn is_journal() -> bool {
    let Ok(stream) = std::env::var("JOURNAL_STREAM") else { return false };
    fstat(io::stderr().as_fd()).is_ok_and(|stat| stream == format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// How an event becomes a line, where the library's own ways do not do.
enum Line {
    /// For journald: no time of our own, and the priority as sd-daemon(3) writes it, so that `journalctl -p` works.
    Journal(Format<Compact, ()>),
    /// One JSON object a line, the instance first in it.
    Object(Format<Json>),
}

impl Line {
    fn for_journal() -> Self {
        Self::Journal(Format::default().without_time().with_target(false).with_level(false).compact())
    }

    fn of_json() -> Self {
        Self::Object(Format::default().with_target(false).json().flatten_event(true))
    }
}

impl<S, N> FormatEvent<S, N> for Line
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        match self {
            Self::Journal(format) => {
                write!(writer, "<{}>", priority(*event.metadata().level()))?;
                format.format_event(context, writer, event)
            }
            Self::Object(format) => {
                let Some(id) = INSTANCE.get() else { return format.format_event(context, writer, event) };
                let mut line = String::new();
                format.format_event(context, Writer::new(&mut line), event)?;
                // An id needs no escape, and an event is an object that is never empty.
                write!(writer, "{{\"instance_id\":\"{id}\",{}", line.strip_prefix('{').unwrap_or(&line))
            }
        }
    }
}

fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// The fields of an event, and the instance after them.
struct WithInstance;

impl<'writer> FormatFields<'writer> for WithInstance {
    fn format_fields<R: RecordFields>(&self, mut writer: Writer<'writer>, fields: R) -> fmt::Result {
        DefaultFields::new().format_fields(writer.by_ref(), fields)?;
        INSTANCE.get().map_or(Ok(()), |id| write!(writer, " instance_id={id}"))
    }
}
