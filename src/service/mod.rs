//! Service managers: what stops and starts the services of an app.
//!
//! A new one is a file here that implements [`ServiceManager`], and an arm in [`detect`].

mod client;
mod custom;
mod dependents;
mod detect;
mod limit;
mod span;
mod systemd;
mod timeouts;
mod trace;
mod unit;
mod upstart;

pub use custom::{CustomManager, Template, TemplateError};
pub use detect::{DetectError, DetectionRoot, ManagerChoice, detect};
pub(crate) use limit::{DEFAULT_LIMIT, start_limit, stop_limit};
pub use systemd::Systemd;
pub use trace::Trace;
pub use upstart::Upstart;

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// What a service manager answers, later.
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, ServiceError>> + Send + 'a>>;

/// Stops, starts and looks at services by name. Time limits are the caller's: each answer may be dropped.
pub trait ServiceManager: Send + Sync {
    /// What logs call it: `systemd`, `upstart`, or the name in the configuration.
    fn name(&self) -> &str;

    /// Stops the service and waits until it is down. A service that is down already is no error.
    ///
    /// Should the agent be killed meanwhile, the next one ends what bears the `trace` before it does anything else.
    fn stop<'a>(&'a self, service: &'a ServiceName, trace: &'a Trace<'a>) -> Answer<'a, ()>;

    /// Starts the service, handing it `environment` where the manager can; for `trace` see [`Self::stop`].
    fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        trace: &'a Trace<'a>,
    ) -> Answer<'a, ()>;

    /// Whether [`Self::start_anew`] stops what is up, so that nobody need look before it.
    fn starts_anew(&self) -> bool {
        false
    }

    /// Starts a service that was stopped, and that others may have started since: what then runs may be what was there
    /// before an update. Where the manager [has no such act](Self::starts_anew), this is a start.
    fn start_anew<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        trace: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        self.start(service, environment, trace)
    }

    /// What goes down when `services` are stopped, although nobody asks for it: the units that need them and are up now.
    /// With those of `owed`, which went down so before, that still can be started.
    fn dependents<'a>(
        &'a self,
        _services: &'a [ServiceName],
        _owed: &'a [ServiceName],
    ) -> Answer<'a, Vec<ServiceName>> {
        Box::pin(std::future::ready(Ok(Vec::new())))
    }

    /// Starts one of the [`Self::dependents`].
    fn start_again<'a>(&'a self, service: &'a ServiceName, trace: &'a Trace<'a>) -> Answer<'a, ()> {
        self.start(service, &[], trace)
    }

    /// What the service is doing now.
    fn status<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Status>;

    /// How long the service itself may take to stop and to start, where the manager knows.
    fn limits<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Limits>;

    /// Whether the whole host is going down, so that nothing can be started any more; false where nobody can tell.
    fn is_shutting_down(&self) -> Answer<'_, bool> {
        Box::pin(std::future::ready(Ok(false)))
    }
}

/// The name of a service: nothing in it can be an option, a path or a second word.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Box<str>);

impl ServiceName {
    /// The name as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The name without the `.service` that systemd lets one leave out: equal for names of one service.
    pub fn key(&self) -> &str {
        self.0.strip_suffix(".service").unwrap_or(&self.0)
    }

    /// A target of systemd, which does nothing itself.
    pub(crate) fn is_target(&self) -> bool {
        self.0.ends_with(".target")
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for ServiceName {
    type Error = ServiceNameError;

    fn try_from(text: String) -> Result<Self, ServiceNameError> {
        text.parse()
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.into()
    }
}

/// Why a text is no service name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a service name: letters, digits and any of : _ . @ \\ -, at most 255, the first a letter, a digit or _"
)]
pub struct ServiceNameError;

impl FromStr for ServiceName {
    type Err = ServiceNameError;

    fn from_str(text: &str) -> Result<Self, ServiceNameError> {
        let first = text.bytes().next().ok_or(ServiceNameError)?;
        let rest_fits = text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b':' | b'_' | b'.' | b'@' | b'\\' | b'-'));
        if text.len() <= 255 && rest_fits && (first.is_ascii_alphanumeric() || first == b'_') {
            Ok(Self(text.into()))
        } else {
            Err(ServiceNameError)
        }
    }
}

/// What a service is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Status {
    /// Up. The incarnation differs after every start; `None` where the manager has no such thing.
    Running {
        /// systemd: the unit's `InvocationID`, before 232 when it became active; upstart: the process id.
        incarnation: Option<String>,
    },
    /// On its way up, or waiting to be restarted after it died.
    Starting,
    /// A oneshot unit that did its work.
    Completed {
        /// It counts as up for that, so that a start would not have it done again.
        remains: bool,
    },
    /// The manager counts it as up, but its process has ended: a start would do nothing.
    Ended,
    /// The manager counts it as up, but it has no process, and whether it should have one nobody can tell: a script of
    /// the old init may only have set something up.
    Unclear,
    /// Down, without a failure.
    Stopped,
    /// Down after a failure, with what the manager says of it.
    Failed(String),
    /// The manager knows no such service.
    NotFound,
}

impl Status {
    /// A start would do nothing to it, or is under way.
    pub(crate) fn is_started(&self) -> bool {
        matches!(
            self,
            Self::Running { .. }
                | Self::Starting
                | Self::Completed { remains: true }
                | Self::Ended
                | Self::Unclear
        )
    }
}

/// How long a service may take by its own configuration. `None`: not known, or no limit.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// To stop.
    pub stop: Option<Duration>,
    /// To start.
    pub start: Option<Duration>,
}

/// A service manager could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The manager knows no such service.
    #[error("{manager} knows no service {service}: check its name, and that it is installed")]
    NotFound {
        /// The manager's name.
        manager: String,
        /// The service.
        service: ServiceName,
    },
    /// The manager's command failed.
    #[error("`{command}` failed ({status}){}", tail(.output))]
    Failed {
        /// The command as one would type it.
        command: String,
        /// `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
        /// Its last lines of output, cleaned of control characters.
        output: Vec<String>,
    },
    /// The manager's command could not be run at all.
    #[error("cannot run `{command}`: {source}")]
    Spawn {
        /// The command as one would type it.
        command: String,
        /// Why.
        source: std::io::Error,
    },
    /// The manager's answer was not understood.
    #[error("`{command}` answered what is not understood: {answer}")]
    Answer {
        /// The command as one would type it.
        command: String,
        /// What it printed.
        answer: String,
    },
}

fn tail(output: &[String]) -> String {
    if output.is_empty() { String::new() } else { format!(": {}", output.join(" | ")) }
}
