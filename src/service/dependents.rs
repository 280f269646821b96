//! Which units go down with others, by what systemd says of them.

use std::collections::HashSet;

use super::ServiceName;

/// The properties to ask for. A stop is handed on along all but the first three; those that a version does not know it
/// leaves out.
pub(super) const PROPERTIES: &str =
    "Id,LoadState,ActiveState,RequiredBy,RequisiteOf,BoundBy,ConsistsOf,PropagatesStopTo";
const HANDED_ON: [&str; 5] = ["RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf", "PropagatesStopTo"];
/// What can be started again. Scopes cannot; slices and devices come and go by themselves.
const STARTABLE: [&str; 7] = [".service", ".socket", ".target", ".timer", ".path", ".mount", ".automount"];

/// Follows stops from unit to unit, one answer of `systemctl show` after the other.
#[derive(Debug, Default)]
pub(super) struct Walk {
    /// Units that were asked about.
    known: HashSet<String>,
    found: Vec<ServiceName>,
}

impl Walk {
    /// Takes the answer about so many units that will be stopped, and after them about those that are owed a start.
    /// Gives what to ask about next.
    pub(super) fn begin(&mut self, answer: &str, stopped: usize) -> Vec<String> {
        let mut stopped_units = units(answer);
        let mut owed = stopped_units.split_off(stopped.min(stopped_units.len()));
        self.known.extend(stopped_units.iter().map(|unit| unit.id.to_owned()));
        owed.retain(|unit| unit.is_loaded && self.known.insert(unit.id.to_owned()));
        self.found = owed.iter().filter_map(Unit::name).collect();
        // One that is owed may be up again, and others with it.
        let mut next = self.next(&stopped_units);
        next.extend(self.next(&owed));
        next
    }

    /// Takes the answer about what was to be asked about next, and gives what is then.
    pub(super) fn go_on(&mut self, answer: &str) -> Vec<String> {
        let units = units(answer);
        self.found.extend(units.iter().filter(|unit| unit.is_up).filter_map(Unit::name));
        self.next(&units)
    }

    /// All that must be started again, in that order: targets last, as they are there once their services are.
    pub(super) fn into_found(mut self) -> Vec<ServiceName> {
        self.found.sort_by_key(ServiceName::is_target);
        self.found
    }

    /// Also through what is down: whether a stop ends there depends on the version, and a start of what is up is none.
    fn next(&mut self, units: &[Unit<'_>]) -> Vec<String> {
        let names = units.iter().flat_map(|unit| unit.dependents.iter());
        names.filter(|name| self.known.insert((**name).to_owned())).map(|name| (*name).to_owned()).collect()
    }
}

struct Unit<'a> {
    id: &'a str,
    is_loaded: bool,
    is_up: bool,
    dependents: Vec<&'a str>,
}

impl Unit<'_> {
    fn name(&self) -> Option<ServiceName> {
        let startable = STARTABLE.iter().any(|suffix| self.id.ends_with(suffix));
        startable.then(|| self.id.parse().ok())?
    }
}

/// An empty line is between two units.
fn units(answer: &str) -> Vec<Unit<'_>> {
    answer.split("\n\n").map(unit).filter(|unit| !unit.id.is_empty()).collect()
}

fn unit(answer: &str) -> Unit<'_> {
    let mut unit = Unit { id: "", is_loaded: false, is_up: false, dependents: Vec::new() };
    for (key, value) in answer.lines().filter_map(|line| line.split_once('=')) {
        match key {
            "Id" => unit.id = value,
            "LoadState" => unit.is_loaded = value == "loaded",
            // One on its way up is stopped, too.
            "ActiveState" => {
                unit.is_up = matches!(value, "active" | "reloading" | "refreshing" | "activating");
            }
            _ if HANDED_ON.contains(&key) => unit.dependents.extend(value.split_ascii_whitespace()),
            _ => {}
        }
    }
    unit
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn shown(id: &str, state: &str, dependents: &str) -> String {
        format!(
            "Id={id}\nRequiredBy={dependents}\nRequisiteOf=\nBoundBy=\nConsistsOf=\nLoadState=loaded\nActiveState={state}\n"
        )
    }

    fn found(walk: Walk) -> Vec<String> {
        walk.into_found().into_iter().map(String::from).collect()
    }

    /// Of systemd 252: `front` requires `hello`, and `tt.target` is bound to `front`.
    #[test]
    fn a_real_answer_is_followed_to_its_end() {
        let answer = include_str!("fixtures/dependents.show");
        let mut shown = answer.split("\n\n");
        let mut walk = Walk::default();
        assert_eq!(walk.begin(shown.next().unwrap(), 1), ["front.service"]);
        assert_eq!(walk.go_on(shown.next().unwrap()), ["tt.target"]);
        assert!(walk.go_on(shown.next().unwrap()).is_empty());
        assert_eq!(found(walk), ["front.service", "tt.target"]);
    }

    #[test]
    fn every_way_in_which_a_stop_is_handed_on_counts() {
        for key in HANDED_ON {
            let mut walk = Walk::default();
            assert_eq!(
                walk.begin(&format!("Id=a.service\n{key}=b.service c.socket\n"), 1),
                ["b.service", "c.socket"]
            );
            let next = [shown("b.service", "active", ""), shown("c.socket", "active", "")].join("\n");
            assert!(walk.go_on(&next).is_empty());
            assert_eq!(found(walk), ["b.service", "c.socket"], "{key}");
        }
    }

    #[test]
    fn what_is_down_stays_down_but_hands_the_stop_on() {
        let mut walk = Walk::default();
        walk.begin(&shown("a.service", "active", "b.service"), 1);
        assert_eq!(
            walk.go_on(&shown("b.service", "inactive", "c.service d.service")),
            ["c.service", "d.service"]
        );
        let states =
            [shown("c.service", "activating", "b.service"), shown("d.service", "failed", "")].join("\n");
        assert!(walk.go_on(&states).is_empty(), "a circle ends");
        assert_eq!(found(walk), ["c.service"]);
    }

    #[test]
    fn the_services_of_the_app_and_what_cannot_be_started_are_none() {
        let mut walk = Walk::default();
        let own = [shown("db.service", "active", "api.service x.scope"), shown("api.service", "active", "")];
        let next = walk.begin(&own.join("\n"), 2);
        assert_eq!(next, ["x.scope"]);
        assert!(walk.go_on(&shown("x.scope", "active", "")).is_empty());
        assert_eq!(found(walk), [""; 0]);
    }

    #[test]
    fn what_is_owed_a_start_is_started_unless_it_is_gone() {
        let mut walk = Walk::default();
        let answer = [
            shown("a.service", "active", "b.target c.service"),
            shown("c.service", "failed", ""),
            shown("a.service", "active", ""),
            shown("gone.service", "inactive", "").replace("loaded", "not-found"),
            shown("masked.service", "inactive", "").replace("loaded", "masked"),
        ];
        assert_eq!(walk.begin(&answer.join("\n"), 1), ["b.target"]);
        assert!(walk.go_on(&shown("b.target", "active", "")).is_empty());
        assert_eq!(found(walk), ["c.service", "b.target"]);
    }

    /// Somebody has mended and started it, and what needs it.
    #[test]
    fn what_needs_a_unit_that_is_owed_stops_with_it() {
        let mut walk = Walk::default();
        let answer =
            [shown("a.service", "active", "front.service"), shown("front.service", "active", "edge.service")];
        assert_eq!(walk.begin(&answer.join("\n"), 1), ["edge.service"]);
        assert!(walk.go_on(&shown("edge.service", "active", "")).is_empty());
        assert_eq!(found(walk), ["front.service", "edge.service"]);
    }
}
