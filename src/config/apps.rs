//! `apps:`

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::command::CommandSpec;
use crate::refs::{Branches, RefPattern, RefRules};
use crate::service::ServiceName;

use super::checker::{Checker, Within};
use super::commands::{COMMAND_TIMEOUT, command};
use super::fragment::{
    AppFragment, BranchFragment, CommandFragment, Field, List, Mapping, OneOrMany, Scalar,
};
use super::lined::Lined;
use super::source::{Place, Placed, Source, Sources};
use super::tags::TaggedApp;
use super::validate::{DAY, SECOND};
use super::{App, AppName, Host, values};

const SETTLE: Duration = Duration::from_secs(2);
const MINUTE: Duration = Duration::from_secs(60);
/// What `check` says of a time limit that the configuration leaves to the unit.
const UNITS_OWN: &str = "the unit's own, plus 10s";

/// `tags`: tags are read, so that there need be no app yet.
pub(super) fn apps(
    checker: &mut Checker,
    sources: &mut Sources,
    environment: Option<&str>,
    (host, tags): (&Host, bool),
) -> Vec<Arc<App>> {
    let Some(Listed { source, items, tagged }) = listed(checker, sources, tags) else { return Vec::new() };
    let count = items.len() + tagged.len();
    if count == 0 && tags {
        checker.warnings.push("no app yet: the agent waits for tags instance-agent:app:NAME".to_owned());
        return Vec::new();
    }
    let mut found = Vec::with_capacity(count);
    // Each is done with before the next is looked at: of many apps there is only one copy at a time.
    let items = items.into_iter().map(|item| Placed::of(&source, item));
    for (i, item) in items.chain(tagged.into_iter().map(|it| it.app)).enumerate() {
        let key = AppKey(i);
        let Some((place, fragment)) = checker.mapping(key, item) else { continue };
        let mut reader = AppReader { checker, key, place };
        let Some(app) = reader.app(fragment, environment, host) else { continue };
        found.push(Found { key, place: reader.place, app: Arc::new(app) });
    }
    refuse_second_names(checker, &found);
    let apps: Vec<_> = found.into_iter().map(|it| it.app).collect();
    if apps.is_empty() {
        checker.warnings.push(format!(
            "no app is managed here: none has a branch for the environment {}",
            environment.unwrap_or("(none)")
        ));
    }
    apps
}

/// An app, and where it stands.
struct Found {
    key: AppKey,
    place: Place,
    app: Arc<App>,
}

fn refuse_second_names(checker: &mut Checker, found: &[Found]) {
    let mut by_name: Vec<_> = found.iter().collect();
    // Stable: of two with one name, the earlier comes first.
    by_name.sort_by(|one, other| one.app.name.cmp(&other.app.name));
    for pair in by_name.windows(2) {
        let [earlier, Found { key, place, app }] = pair else { continue };
        if earlier.app.name == app.name {
            let (name, earlier) = (app.name.as_str(), &earlier.place);
            let problem = format!("{name:?} is also the name of the app at {earlier}: set another");
            checker.error(place, Within(key, "name"), problem);
        }
    }
}

/// What the highest list holds, but for what tags replace in it, and what tags add.
struct Listed {
    source: Source,
    items: Vec<Lined<Mapping<AppFragment>>>,
    tagged: Vec<TaggedApp>,
}

/// `None`: a mistake was noted.
fn listed(checker: &mut Checker, sources: &mut Sources, may_be_empty: bool) -> Option<Listed> {
    let mut tagged = sources.take_tagged_apps();
    let Some(field) = sources.take(|f| &mut f.apps) else {
        if tagged.is_empty() && !may_be_empty {
            let missing = "is missing: list at least one app with its repo and its service";
            checker.error(&sources.whole(), "apps", missing);
        }
        return Some(Listed { source: Source::Default, items: Vec::new(), tagged });
    };
    let place = field.place.clone();
    let mut items = checker.lines("apps", field)?;
    if items.is_empty() && !may_be_empty {
        checker.error(&place, "apps", "is empty: list at least one app with its repo and its service");
    }
    if matches!(place.source, Source::Flag(_)) {
        tagged.retain(|tag| !items.iter().any(|item| is_named(item, &tag.name)));
    } else {
        items.retain(|item| !tagged.iter().any(|tag| is_named(item, &tag.name)));
    }
    Some(Listed { source: place.source, items, tagged })
}

/// By its `name`, or by its first service.
fn is_named(app: &Lined<Mapping<AppFragment>>, name: &str) -> bool {
    let Mapping::Fields(app) = &app.value else { return false };
    let first = app.services.as_ref().and_then(|services| match &services.value {
        List::Items(services) => services.first(),
        List::Other(_) => None,
    });
    let scalar = app.name.as_ref().or(app.service.as_ref()).or(first);
    scalar.is_some_and(|scalar| values::name(&scalar.value).is_ok_and(|it| it == name))
}

/// The key of an app by its position in the list.
#[derive(Clone, Copy)]
struct AppKey(usize);

impl fmt::Display for AppKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "apps[{}]", self.0)
    }
}

/// Reads one app; `place` is where its mapping begins.
struct AppReader<'c> {
    checker: &'c mut Checker,
    key: AppKey,
    place: Place,
}

impl AppReader<'_> {
    /// `None`: not managed here, or a mistake was noted.
    fn app(&mut self, fragment: AppFragment, environment: Option<&str>, host: &Host) -> Option<App> {
        let repo = self.placed(fragment.repo);
        let missing = "is missing: the repository as OWNER/NAME";
        let repo = self.checker.required(self.at("repo"), repo, (&self.place, missing), values::parsed);
        let services = self.services(fragment.service, fragment.services, host);
        let name = self.name(fragment.name, services.first());
        let tags = if let Some(tags) = fragment.tags {
            self.patterns("tags", tags)
        } else {
            self.checker.show(&Place::DEFAULT, self.at("tags"), "none");
            Vec::new()
        };
        let branches = self.branches(fragment.branch, environment, !tags.is_empty());
        let prepare = self.command("prepare", fragment.prepare);
        let update = self.command("update", fragment.update);
        let check = self.command("check", fragment.check);
        let settle = self.duration("settle", fragment.settle, "2s", (Duration::ZERO, 10 * MINUTE));
        let retries = self.placed(fragment.retries);
        let retries =
            self.checker.or_default(self.at("retries"), retries, (0, "0"), |n| values::integer(n, 0, 100));
        let stop_timeout = self.duration("stop_timeout", fragment.stop_timeout, UNITS_OWN, (SECOND, DAY));
        let start_timeout = self.duration("start_timeout", fragment.start_timeout, UNITS_OWN, (SECOND, DAY));
        if services.is_empty() {
            return None;
        }
        Some(App {
            name: name?,
            repo: repo?,
            services,
            refs: RefRules { branches: branches?, tags },
            prepare,
            update,
            check,
            settle: settle.unwrap_or(SETTLE),
            retries,
            stop_timeout,
            start_timeout,
        })
    }

    fn at<'f>(&self, field: &'f str) -> Within<'f, AppKey> {
        Within(self.key, field)
    }

    fn placed<T>(&self, field: Field<T>) -> Option<Placed<T>> {
        field.map(|field| Placed::of(&self.place.source, field))
    }

    fn duration(
        &mut self,
        field: &str,
        value: Field<Scalar>,
        absent: &str,
        (min, max): (Duration, Duration),
    ) -> Option<Duration> {
        let value = self.placed(value);
        self.checker.optional_or(self.at(field), value, absent, |text| values::duration(text, min, max))
    }

    fn command(
        &mut self,
        field: &str,
        value: Field<Mapping<Box<CommandFragment>>>,
    ) -> Option<Box<CommandSpec>> {
        let value = self.placed(value);
        command(self.checker, &self.at(field), COMMAND_TIMEOUT, value).map(Box::new)
    }

    fn services(&mut self, one: Field<Scalar>, many: Field<List<Scalar>>, host: &Host) -> Vec<ServiceName> {
        let (field, items) = match (self.placed(one), self.placed(many)) {
            (Some(one), None) => ("service", Some(vec![one])),
            (None, Some(many)) => ("services", self.checker.list(self.at("services"), many)),
            (Some(one), Some(_)) => {
                self.checker.error(
                    &one.place,
                    self.at("service"),
                    "stands beside `services`: keep one of them",
                );
                return Vec::new();
            }
            (None, None) => {
                self.checker.error(&self.place, self.at("service"), "is missing: the service to restart");
                return Vec::new();
            }
        };
        let Some(items) = items else { return Vec::new() };
        if items.is_empty() {
            self.checker.error(&self.place, self.at(field), "is empty: list at least one service");
        }
        self.distinct_services(field, &items, host)
    }

    fn distinct_services(&mut self, field: &str, items: &[Placed<Scalar>], host: &Host) -> Vec<ServiceName> {
        let mut services: Vec<ServiceName> = Vec::with_capacity(items.len());
        for item in items {
            let problem = match values::parsed::<ServiceName>(&item.value) {
                Err(problem) => problem,
                Ok(service) if services.iter().any(|other| other.key() == service.key()) => {
                    format!("{service} is listed twice")
                }
                Ok(service) if host.own_units.iter().any(|unit| unit == service.key()) => {
                    format!("{service} is the agent itself: it cannot restart the unit that it runs in")
                }
                Ok(service) => {
                    self.checker.show(&item.place, self.at(field), service.as_str());
                    services.push(service);
                    continue;
                }
            };
            self.checker.error(&item.place, self.at(field), problem);
        }
        services
    }

    fn name(&mut self, name: Field<Scalar>, first_service: Option<&ServiceName>) -> Option<AppName> {
        if let Some(name) = self.placed(name) {
            let name = self.checker.optional(self.at("name"), Some(name), values::name)?;
            return Some(AppName(name.into()));
        }
        let service = first_service?.as_str();
        if !values::is_name(service) {
            let problem = format!("is missing: the service name {service:?} cannot stand for it");
            self.checker.error(&self.place, self.at("name"), problem);
            return None;
        }
        self.checker.show(&Place::DEFAULT, self.at("name"), service);
        Some(AppName(service.into()))
    }

    /// `None`: the app is not managed in this environment, or a mistake was noted.
    fn branches(
        &mut self,
        field: Field<BranchFragment>,
        environment: Option<&str>,
        has_tags: bool,
    ) -> Option<Branches> {
        let Some(field) = field else {
            // As in GitHub Actions: who lists only tags does not deploy branches.
            let (branches, shown) = if has_tags {
                (Branches::Listed(Vec::new()), "none, as only tags are listed")
            } else {
                (Branches::Default, "the repository's default branch")
            };
            self.checker.show(&Place::DEFAULT, self.at("branch"), shown);
            return Some(branches);
        };
        let place = Place::of(&self.place.source, &field);
        match field.value {
            BranchFragment::Everywhere(branches) => {
                let branches = Lined { value: branches, line: field.line };
                Some(Branches::Listed(self.patterns("branch", branches)))
            }
            BranchFragment::PerEnvironment(entries) => {
                if environment.is_none() {
                    let problem = "is given per environment, but this instance has none: set `environment`";
                    self.checker.error(&place, self.at("branch"), problem);
                }
                let mut here = None;
                for (key, branches) in entries {
                    let key = Placed::of(&self.place.source, key);
                    match values::name(&key.value) {
                        Ok(name) => {
                            let patterns = self.patterns(&format!("branch.{name}"), branches);
                            if environment == Some(name.as_str()) {
                                here = Some(Branches::Listed(patterns));
                            }
                        }
                        Err(problem) => self.checker.error(&key.place, self.at("branch"), problem),
                    }
                }
                if here.is_none() && environment.is_some() {
                    self.checker.show(
                        &place,
                        self.at("branch"),
                        "none for this environment: not managed here",
                    );
                }
                here
            }
        }
    }

    fn patterns(&mut self, field: &str, patterns: Lined<OneOrMany>) -> Vec<RefPattern> {
        let key = self.at(field);
        let place = Place::of(&self.place.source, &patterns);
        let items = match patterns.value {
            OneOrMany::One(one) => vec![Placed { value: one, place: place.clone() }],
            OneOrMany::Many(many) => {
                many.into_iter().map(|item| Placed::of(&self.place.source, item)).collect()
            }
            OneOrMany::Other(kind) => {
                self.checker.error(&place, key, format!("is {kind}, but must be a name or a list of names"));
                return Vec::new();
            }
        };
        if items.is_empty() {
            self.checker.error(&place, key, "is empty: name at least one");
        }
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let pattern = values::text(&item.value)
                .and_then(|text| text.parse::<RefPattern>().map_err(|problem| format!("{text:?} {problem}")));
            match pattern {
                Ok(pattern) => {
                    self.checker.show(&item.place, key, &pattern);
                    values.push(pattern);
                }
                Err(problem) => self.checker.error(&item.place, key, problem),
            }
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Some hosts have thousands.
    #[test]
    fn an_app_and_what_it_is_read_from_are_small() {
        let (app, fragment) = (size_of::<App>(), size_of::<Lined<Mapping<AppFragment>>>());
        assert!(app <= 184 && fragment <= 440, "{app} {fragment}");
    }
}
