//! Where a configuration comes from: which sources, in which order, and what each setting was taken from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_yaml::Spanned;

use super::error::{ConfigError, ConfigErrors};
use super::file;
use super::flags::Flags;
use super::fragment::{Field, Fragment, Mapping, MqttFragment};

/// Read when no `--config` names another; may be missing.
pub const DEFAULT_FILE: &str = "/etc/instance-agent/config.yaml";

/// Something that a setting can come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// The program's own default.
    Default,
    /// A flag of the command line.
    Flag(&'static str),
    /// All flags together: where a setting is missing that no file could have had.
    Flags,
    /// A YAML file.
    File(Arc<Path>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Flags => f.write_str("command line (there is no configuration file)"),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

/// A source and, in a file, the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The source.
    pub source: Source,
    /// Line, from 1.
    pub line: Option<u64>,
}

impl Place {
    pub(super) const DEFAULT: Self = Self { source: Source::Default, line: None };

    pub(super) fn of<T>(source: &Source, field: &Spanned<T>) -> Self {
        let line = match source {
            Source::File(_) => Some(field.referenced.line()).filter(|line| *line > 0),
            _ => None,
        };
        Self { source: source.clone(), line }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.source.fmt(f)?;
        self.line.map_or(Ok(()), |line| write!(f, ":{line}"))
    }
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Placed<T> {
    pub(super) value: T,
    pub(super) place: Place,
}

impl<T> Placed<T> {
    pub(super) fn of(source: &Source, field: Spanned<T>) -> Self {
        Self { place: Place::of(source, &field), value: field.value }
    }
}

/// The sources that said something, highest precedence first.
pub(super) struct Sources(Vec<(Source, Fragment)>);

impl Sources {
    /// Takes a field from the first source that has it.
    pub(super) fn take<T>(&mut self, field: impl Fn(&mut Fragment) -> &mut Field<T>) -> Option<Placed<T>> {
        self.0.iter_mut().find_map(|(source, fragment)| {
            let value = field(fragment).take()?;
            Some(Placed::of(source, value))
        })
    }

    /// Takes a field of `mqtt:` from the first source that has it.
    pub(super) fn take_mqtt<T>(
        &mut self,
        field: impl Fn(&mut MqttFragment) -> &mut Field<T>,
    ) -> Option<Placed<T>> {
        self.0.iter_mut().find_map(|(source, fragment)| match &mut fragment.mqtt.as_mut()?.value {
            Mapping::Fields(mqtt) => Some(Placed::of(source, field(mqtt).take()?)),
            Mapping::Other(_) => None,
        })
    }

    /// Where one looks for a setting that no source has: the file, or else the command line.
    pub(super) fn whole(&self) -> Place {
        let mut files = self.0.iter().map(|(source, _)| source).filter(|it| matches!(it, Source::File(_)));
        Place { source: files.next().cloned().unwrap_or(Source::Flags), line: None }
    }

    /// The same for a setting in `mqtt:`, with its line if it is there.
    pub(super) fn mqtt_place(&self) -> Place {
        let in_file = |(source, fragment): &(Source, Fragment)| {
            fragment.mqtt.as_ref().map(|mqtt| Place::of(source, mqtt)).filter(|place| place.line.is_some())
        };
        self.0.iter().find_map(in_file).unwrap_or_else(|| self.whole())
    }

    /// Every `mqtt:` that is no mapping, with what it is.
    pub(super) fn misplaced_mqtt(&self) -> impl Iterator<Item = Placed<&'static str>> {
        self.0.iter().filter_map(|(source, fragment)| {
            let mqtt = fragment.mqtt.as_ref()?;
            let Mapping::Other(kind) = mqtt.value else { return None };
            Some(Placed { value: kind, place: Place::of(source, mqtt) })
        })
    }
}

/// What the command line says of the configuration.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// `--config`: must exist and hold a configuration.
    pub file: Option<PathBuf>,
    /// The other flags.
    pub flags: Flags,
}

impl Request {
    /// The configuration file, which may be missing.
    pub(super) fn path(&self) -> &Path {
        self.file.as_deref().unwrap_or(Path::new(DEFAULT_FILE))
    }
}

/// Reads every source. `Ok(None)`: none of them says anything.
pub(super) fn read(request: &Request) -> Result<Option<Sources>, ConfigErrors> {
    let mut sources = request.flags.fragments()?;
    let path = request.path();
    match file::read(path)? {
        Some(file) => sources.push(file),
        None if request.file.is_some() => return Err(nothing_in(path)),
        None => {}
    }
    Ok((!sources.is_empty()).then_some(Sources(sources)))
}

fn nothing_in(path: &Path) -> ConfigErrors {
    let problem = if path.exists() {
        "is empty: it was named by --config, so it must hold a configuration"
    } else {
        "does not exist: it was named by --config, so it must"
    };
    ConfigError::of_source(Place { source: Source::File(path.into()), line: None }, problem.to_owned()).into()
}
