//! Exit codes.

use std::process::ExitCode;

use crate::config::LoadError;

use super::output;

/// Something went wrong while running.
pub(super) const FAILED: u8 = 1;
/// The arguments cannot be meant so; what the argument parser ends with, too.
pub(super) const USAGE: u8 = 2;
/// The configuration is invalid: `EX_CONFIG` of sysexits.h. The unit file does not restart on it.
pub(super) const CONFIG: u8 = 78;

/// Prints an error with all its causes, and gives the exit code for it.
pub(super) fn failure(error: &dyn std::error::Error, code: u8) -> ExitCode {
    let mut line = format!("instance-agent: {error}");
    let mut source = error.source();
    while let Some(cause) = source {
        let text = cause.to_string();
        // Some errors already say their cause.
        if !line.ends_with(&text) {
            line.push_str(": ");
            line.push_str(&text);
        }
        source = cause.source();
    }
    output::complain(line);
    ExitCode::from(code)
}

/// For a configuration that cannot be loaded. What may pass, or be mended from afar, is worth another start.
pub(super) fn of_load(error: &LoadError) -> ExitCode {
    let another_start = match error {
        LoadError::Metadata { trouble, .. } => !trouble.of_environment(),
        LoadError::Invalid(errors) => errors.of_tags(),
        LoadError::Unconfigured(_) | LoadError::Panic(_) => false,
    };
    ExitCode::from(if another_start { FAILED } else { CONFIG })
}
