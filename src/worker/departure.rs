//! Why an app's record comes to an end before its file does.

/// What became of the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Departure {
    /// The configuration no longer has it.
    Removed,
    /// The configuration has another repository under its name.
    Replaced,
}

impl Departure {
    /// As the name of the file that is set aside has it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Replaced => "replaced",
        }
    }

    /// Why what is pending is dropped.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Removed => "the app is no longer in the configuration",
            Self::Replaced => "its app has another repository now",
        }
    }
}
