//! Collects mistakes, and what each setting is and comes from, while fields are read.

use std::collections::HashSet;
use std::fmt::{self, Display};

use super::error::{ConfigError, ConfigErrors};
use super::fragment::{List, Mapping, Scalar};
use super::lined::Lined;
use super::source::{Place, Placed};

/// One effective setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Its key, such as `mqtt.url` or `apps[0].repo`.
    pub key: String,
    /// Its value, as a configuration file would say it.
    pub value: String,
    /// What it was taken from.
    pub place: Place,
}

/// A key inside of what another names, such as `apps[0].repo`: written out only where somebody is to see it.
#[derive(Clone, Copy)]
pub(super) struct Within<'f, P>(pub(super) P, pub(super) &'f str);

impl<P: Display> Display for Within<'_, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.0, self.1)
    }
}

#[derive(Default)]
pub(super) struct Checker {
    errors: Vec<ConfigError>,
    pub(super) shown: Vec<Shown>,
    unshown: bool,
    pub(super) warnings: Vec<String>,
    /// Those that commands may run as: most commands have the same, and each look-up reads files.
    pub(super) users: HashSet<String>,
}

impl Checker {
    pub(super) fn new(unshown: bool) -> Self {
        Self { unshown, ..Self::default() }
    }

    pub(super) fn error(&mut self, place: &Place, key: impl Display, problem: impl Into<String>) {
        self.errors.push(ConfigError::of_key(place.clone(), key.to_string(), problem));
    }

    pub(super) fn show(&mut self, place: &Place, key: impl Display, value: impl Display) {
        if !self.unshown {
            let (key, value) = (key.to_string(), value.to_string());
            self.shown.push(Shown { key, value, place: place.clone() });
        }
    }

    /// The value, if the field is there and valid.
    pub(super) fn optional<T>(
        &mut self,
        key: impl Display,
        field: Option<Placed<Scalar>>,
        parse: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        let field = field?;
        match parse(&field.value) {
            Ok(value) => {
                self.show(&field.place, key, &field.value);
                Some(value)
            }
            Err(problem) => {
                self.error(&field.place, key, problem);
                None
            }
        }
    }

    /// The value, if the field is there and valid; `absent` says what holds where it is not there.
    pub(super) fn optional_or<T>(
        &mut self,
        key: impl Display,
        field: Option<Placed<Scalar>>,
        absent: &str,
        parse: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        if field.is_none() {
            self.show(&Place::DEFAULT, &key, absent);
        }
        self.optional(key, field, parse)
    }

    /// The value, or the default with the text that stands for it.
    pub(super) fn or_default<T>(
        &mut self,
        key: impl Display,
        field: Option<Placed<Scalar>>,
        default: (T, &str),
        parse: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> T {
        self.optional_or(key, field, default.1, parse).unwrap_or(default.0)
    }

    /// The value of a field that must be there; `None` only after a mistake was noted.
    pub(super) fn required<T>(
        &mut self,
        key: impl Display,
        field: Option<Placed<Scalar>>,
        (parent, problem): (&Place, &str),
        parse: impl FnOnce(&Scalar) -> Result<T, String>,
    ) -> Option<T> {
        if field.is_none() {
            self.error(parent, &key, problem);
        }
        self.optional(key, field, parse)
    }

    /// The fields of a mapping.
    pub(super) fn mapping<T>(
        &mut self,
        key: impl Display,
        mapping: Placed<Mapping<T>>,
    ) -> Option<(Place, T)> {
        match mapping.value {
            Mapping::Fields(fields) => Some((mapping.place, fields)),
            Mapping::Other(kind) => {
                self.error(&mapping.place, key, format!("is {kind}, but must be a mapping"));
                None
            }
        }
    }

    /// The items of a list.
    pub(super) fn list<T>(&mut self, key: impl Display, list: Placed<List<T>>) -> Option<Vec<Placed<T>>> {
        let source = list.place.source.clone();
        let items = self.lines(key, list)?;
        Some(items.into_iter().map(|item| Placed::of(&source, item)).collect())
    }

    /// The items of a list, which all have its source.
    pub(super) fn lines<T>(&mut self, key: impl Display, list: Placed<List<T>>) -> Option<Vec<Lined<T>>> {
        match list.value {
            List::Items(items) => Some(items),
            List::Other(kind) => {
                self.error(&list.place, key, format!("is {kind}, but must be a list"));
                None
            }
        }
    }

    /// Each item of a list of scalars that is valid.
    pub(super) fn each<T>(
        &mut self,
        key: impl Display,
        items: &[Placed<Scalar>],
        parse: impl Fn(&Scalar) -> Result<T, String>,
    ) -> Vec<T> {
        let mut values = Vec::with_capacity(items.len());
        for (i, item) in items.iter().enumerate() {
            match parse(&item.value) {
                Ok(value) => values.push(value),
                Err(problem) => self.error(&item.place, format!("{key}[{i}]"), problem),
            }
        }
        values
    }

    /// `value`, unless there were mistakes. `None` stands for one that was noted.
    pub(super) fn finish<T>(self, value: Option<T>) -> Result<(T, Vec<Shown>, Vec<String>), ConfigErrors> {
        ConfigErrors::check(self.errors)?;
        let missing = || ConfigError::of_source(Place::DEFAULT, "the configuration is incomplete".to_owned());
        Ok((value.ok_or_else(missing)?, self.shown, self.warnings))
    }
}

/// As a configuration file would say it.
impl Display for Scalar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Integer(digits) => f.write_str(digits),
            Self::Bool(value) => value.fmt(f),
            Self::Other(kind) => f.write_str(kind),
        }
    }
}
