//! Where a configuration comes from: which sources, in which order, and what each setting was taken from.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{ConfigError, ConfigErrors};
use super::file;
use super::flags::Flags;
use super::fragment::{Ec2Fragment, Field, Fragment, Mapping, MqttFragment, Scalar};
use super::host::Host;
use super::lined::Lined;
use super::tags::{Tagged, TaggedApp};
use super::user_data::Form;
use super::values;

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
    /// EC2 user-data.
    UserData(Form),
    /// A tag of the EC2 instance, by its key.
    Tag(Arc<str>),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::Flag(flag) => f.write_str(flag),
            Self::Flags => f.write_str("command line (there is no configuration file)"),
            Self::File(path) => path.display().fmt(f),
            Self::UserData(form) => form.fmt(f),
            Self::Tag(key) => write!(f, "tag {key}"),
        }
    }
}

impl Source {
    /// It is a document, with lines.
    fn is_document(&self) -> bool {
        matches!(self, Self::File(_) | Self::UserData(_))
    }
}

/// A source and, in a document, the line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The source.
    pub source: Source,
    /// Line, from 1.
    pub line: Option<u64>,
}

impl Place {
    pub(super) const DEFAULT: Self = Self { source: Source::Default, line: None };

    pub(super) fn of<T>(source: &Source, field: &Lined<T>) -> Self {
        let line = Some(field.line.into()).filter(|line| *line > 0 && source.is_document());
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
    pub(super) fn of(source: &Source, field: Lined<T>) -> Self {
        Self { place: Place::of(source, &field), value: field.value }
    }
}

/// The sources that said something.
#[derive(Clone)]
pub(super) struct Sources {
    /// Highest precedence first.
    fragments: Vec<(Source, Fragment)>,
    /// Beside whatever list of apps the others give.
    tagged_apps: Vec<TaggedApp>,
}

impl Sources {
    /// Nothing was said.
    pub(super) fn is_empty(&self) -> bool {
        self.fragments.is_empty() && self.tagged_apps.is_empty()
    }

    /// The file among them.
    pub(super) fn file(&self) -> Option<&Path> {
        self.fragments.iter().find_map(|(source, _)| match source {
            Source::File(path) => Some(&**path),
            _ => None,
        })
    }

    /// There is a file or user-data among them.
    pub(super) fn has_document(&self) -> bool {
        self.fragments.iter().any(|(source, _)| source.is_document())
    }

    /// Adds a source below all others.
    pub(super) fn add_lowest(&mut self, source: Source, fragment: Fragment) {
        self.fragments.push((source, fragment));
    }

    /// Adds the tags: above documents, below flags.
    pub(super) fn add_tags(&mut self, tagged: Tagged) {
        let above = self.fragments.iter().take_while(|(source, _)| matches!(source, Source::Flag(_))).count();
        self.fragments.splice(above..above, tagged.environment);
        self.tagged_apps = tagged.apps;
    }

    /// Whether tags are to be read, as the highest source that speaks of it says. `lowest`: one below these.
    pub(super) fn want_tags(&self, lowest: Option<&Fragment>) -> bool {
        let mut fragments = self.fragments.iter().map(|(_, fragment)| fragment).chain(lowest);
        let said = fragments.find_map(|fragment| match &fragment.ec2.as_ref()?.value {
            Mapping::Fields(ec2) => Some(&ec2.tags.as_ref()?.value),
            Mapping::Other(_) => None,
        });
        said == Some(&Scalar::Bool(true))
    }

    /// The state directory, as the highest source that speaks of it says; `None` where that is invalid, too.
    pub(super) fn state_dir(&self) -> Option<PathBuf> {
        let said = self.fragments.iter().find_map(|(_, fragment)| fragment.state_dir.as_ref())?;
        values::path(&said.value).ok()
    }

    /// Takes the apps that tags name, and leaves none.
    pub(super) fn take_tagged_apps(&mut self) -> Vec<TaggedApp> {
        std::mem::take(&mut self.tagged_apps)
    }

    /// Takes a field from the first source that has it.
    pub(super) fn take<T>(&mut self, field: impl Fn(&mut Fragment) -> &mut Field<T>) -> Option<Placed<T>> {
        self.fragments.iter_mut().find_map(|(source, fragment)| {
            let value = field(fragment).take()?;
            Some(Placed::of(source, value))
        })
    }

    /// Takes a field of `mqtt:` from the first source that has it.
    pub(super) fn take_mqtt<T>(
        &mut self,
        field: impl Fn(&mut MqttFragment) -> &mut Field<T>,
    ) -> Option<Placed<T>> {
        self.fragments.iter_mut().find_map(|(source, fragment)| match &mut fragment.mqtt.as_mut()?.value {
            Mapping::Fields(mqtt) => Some(Placed::of(source, field(mqtt).take()?)),
            Mapping::Other(_) => None,
        })
    }

    /// Takes a field of `ec2:` from the first source that has it.
    pub(super) fn take_ec2<T>(
        &mut self,
        field: impl Fn(&mut Ec2Fragment) -> &mut Field<T>,
    ) -> Option<Placed<T>> {
        self.fragments.iter_mut().find_map(|(source, fragment)| match &mut fragment.ec2.as_mut()?.value {
            Mapping::Fields(ec2) => Some(Placed::of(source, field(ec2).take()?)),
            Mapping::Other(_) => None,
        })
    }

    /// Where one looks for a setting that no source has: the highest document, or else the command line.
    pub(super) fn whole(&self) -> Place {
        let mut documents = self.fragments.iter().map(|(source, _)| source).filter(|it| it.is_document());
        Place { source: documents.next().cloned().unwrap_or(Source::Flags), line: None }
    }

    /// The same for a setting in `mqtt:`, with its line if it is there.
    pub(super) fn mqtt_place(&self) -> Place {
        let in_document = |(source, fragment): &(Source, Fragment)| {
            fragment.mqtt.as_ref().map(|mqtt| Place::of(source, mqtt)).filter(|place| place.line.is_some())
        };
        self.fragments.iter().find_map(in_document).unwrap_or_else(|| self.whole())
    }

    /// Every `mqtt:` and `ec2:` that is no mapping: its key, and what it is.
    pub(super) fn misplaced(&self) -> impl Iterator<Item = (&'static str, Placed<&'static str>)> {
        self.fragments.iter().flat_map(|(source, fragment)| {
            let mqtt = fragment.mqtt.as_ref().and_then(|mqtt| not_a_mapping(source, mqtt));
            let ec2 = fragment.ec2.as_ref().and_then(|ec2| not_a_mapping(source, ec2));
            mqtt.map(|it| ("mqtt", it)).into_iter().chain(ec2.map(|it| ("ec2", it)))
        })
    }
}

fn not_a_mapping<T>(source: &Source, field: &Lined<Mapping<T>>) -> Option<Placed<&'static str>> {
    let Mapping::Other(kind) = field.value else { return None };
    Some(Placed { value: kind, place: Place::of(source, field) })
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

    /// The host looks like an EC2 instance, or the arguments say that it is one.
    pub(crate) fn is_on_ec2(&self, host: &Host) -> bool {
        host.platform.is_ec2 || self.flags.ec2 || self.flags.ec2_tags
    }
}

/// Reads the sources that are on this host.
pub(super) fn read(request: &Request) -> Result<Sources, ConfigErrors> {
    let mut fragments = request.flags.fragments()?;
    let path = request.path();
    match file::read(path)? {
        Some(file) => fragments.push(file),
        None if request.file.is_some() => return Err(nothing_in(path)),
        None => {}
    }
    Ok(Sources { fragments, tagged_apps: Vec::new() })
}

fn nothing_in(path: &Path) -> ConfigErrors {
    let problem = if path.exists() {
        "is empty: it was named by --config, so it must hold a configuration"
    } else {
        "does not exist: it was named by --config, so it must"
    };
    ConfigError::of_source(Place { source: Source::File(path.into()), line: None }, problem.to_owned()).into()
}
