//! Commands: `prepare`, `update`, `check` and `on_outcome`.

use std::collections::HashSet;
use std::fmt::Display;
use std::time::Duration;

use nix::unistd::{User, geteuid};

use crate::command::CommandSpec;

use super::checker::{Checker, Within};
use super::fragment::{CommandFragment, Field, List, Mapping, Scalar};
use super::source::{Place, Placed};
use super::validate::{DAY, SECOND};
use super::values;

/// For a command that names no `timeout`: long enough for a build, short enough to notice the same day.
pub(super) const COMMAND_TIMEOUT: (Duration, &str) = (Duration::from_secs(10 * 60), "10m");
/// For a notification: the app's next deploy waits for it.
pub(super) const NOTICE_TIMEOUT: (Duration, &str) = (Duration::from_secs(30), "30s");

/// Reads a command. `timeout`: what it has unless it names one, and as which that is shown.
pub(super) fn command(
    checker: &mut Checker,
    key: &dyn Display,
    timeout: (Duration, &str),
    field: Option<Placed<Mapping<Box<CommandFragment>>>>,
) -> Option<CommandSpec> {
    let Some(field) = field else {
        checker.show(&Place::DEFAULT, key, "none");
        return None;
    };
    let (place, fragment) = checker.mapping(key, field)?;
    let source = place.source.clone();
    let placed = |field: Field<Scalar>| field.map(|field| Placed::of(&source, field));
    let mut users = std::mem::take(&mut checker.users);
    let looked_up = |name: &Scalar| user(name, &mut users);
    let user = checker.optional_or(Within(key, "user"), placed(fragment.user), "the agent's own", looked_up);
    checker.users = users;
    let dir = checker.optional_or(Within(key, "dir"), placed(fragment.dir), "the user's home", values::path);
    let timeout = checker.or_default(Within(key, "timeout"), placed(fragment.timeout), timeout, |text| {
        values::duration(text, SECOND, DAY)
    });
    let key = &Within(key, "command");
    let Some(argv_field) = fragment.command else {
        checker.error(&place, key, "is missing: the program and its arguments, as a list");
        return None;
    };
    let argv_field = Placed::of(&source, argv_field);
    let at = argv_field.place.clone();
    let argv = argv(checker, key, argv_field)?;
    checker.show(&at, key, format_args!("{argv:?}"));
    Some(CommandSpec { argv, user, dir, timeout })
}

/// Reads a program and its arguments.
pub(super) fn argv(
    checker: &mut Checker,
    key: &dyn Display,
    field: Placed<List<Scalar>>,
) -> Option<Vec<String>> {
    if let List::Other(kind) = field.value {
        let problem = format!("is {kind}, but must be a list: the program and each argument, no shell line");
        checker.error(&field.place, key, problem);
        return None;
    }
    let place = field.place.clone();
    let items = checker.list(key, field)?;
    let argv = checker.each(key, &items, argument);
    if argv.len() < items.len() {
        return None;
    }
    if argv.first().is_none_or(String::is_empty) {
        checker.error(&place, key, "names no program: the list must begin with one");
        return None;
    }
    Some(argv)
}

/// An argument may be empty, a number, or a text of several lines, unlike other text.
fn argument(scalar: &Scalar) -> Result<String, String> {
    match scalar {
        Scalar::Text(text) if !text.contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t')) => {
            Ok(text.to_string())
        }
        Scalar::Integer(digits) => Ok(digits.to_string()),
        scalar => values::text(scalar),
    }
}

/// `known`: users that were found to do, to which this one is added.
fn user(scalar: &Scalar, known: &mut HashSet<String>) -> Result<String, String> {
    let name = values::text(scalar)?;
    if known.contains(&name) {
        return Ok(name);
    }
    let user = User::from_name(&name).map_err(|error| format!("{name:?}: cannot be looked up: {error}"))?;
    let user = user.ok_or_else(|| format!("{name:?}: no such user on this host"))?;
    if geteuid().is_root() || geteuid() == user.uid {
        known.insert(name.clone());
        Ok(name)
    } else {
        Err(format!("{name:?}: only an agent that runs as root can run commands as another user"))
    }
}
