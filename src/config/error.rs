//! Mistakes in a configuration: each with its place, its key, what is wrong and what is allowed.

use std::fmt;

use super::source::Place;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    place: Place,
    key: Option<String>,
    problem: String,
}

impl ConfigError {
    /// A mistake of a source as a whole, or of its syntax.
    pub(super) fn of_source(place: Place, problem: String) -> Self {
        Self { place, key: None, problem }
    }

    /// A mistake in the value of one key.
    pub(super) fn of_key(place: Place, key: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { place, key: Some(key.into()), problem: problem.into() }
    }
}

impl ConfigError {
    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.place)?;
        if let Some(key) = &self.key {
            write!(f, "{key}: ")?;
        }
        f.write_str(&self.problem)
    }
}

/// All mistakes that were found in one reading; never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigErrors(Vec<ConfigError>);

impl ConfigErrors {
    /// `Err` with the mistakes, if there are any.
    pub(super) fn check(mut errors: Vec<ConfigError>) -> Result<(), Self> {
        errors.sort_by_key(|error| error.place.line);
        if errors.is_empty() { Ok(()) } else { Err(Self(errors)) }
    }

    /// One more, after the others.
    pub(super) fn and(mut self, error: ConfigError) -> Self {
        self.0.push(error);
        self
    }

    /// The mistakes, in the order of their lines.
    pub fn iter(&self) -> impl Iterator<Item = &ConfigError> {
        self.0.iter()
    }
}

impl From<ConfigError> for ConfigErrors {
    fn from(error: ConfigError) -> Self {
        Self(vec![error])
    }
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, error) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            error.fmt(f)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}
