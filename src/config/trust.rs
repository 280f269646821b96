//! What a push must prove, and what lets others see or forge what proves it.

use std::path::PathBuf;
use std::time::Duration;

use crate::exposure::{self, Exposed};
use crate::mqtt::{self, MqttSettings};
use crate::signature::Secrets;
use crate::trust::Trust;

use super::checker::Checker;
use super::fragment::Scalar;
use super::source::{Place, Placed, Sources};
use super::validate::DAY;
use super::values;

const SECRET_FILE: &str = "webhook_secret_file";

pub(super) fn trust(checker: &mut Checker, sources: &mut Sources, mqtt: Option<&MqttSettings>) -> Trust {
    let secrets = secrets(checker, sources.take(|f| &mut f.webhook_secret_file));
    let max_push_age =
        checker.optional_or("max_push_age", sources.take(|f| &mut f.max_push_age), "none", |text| {
            values::duration(text, Duration::from_secs(60), 365 * DAY)
        });
    checker.warnings.extend(sources.file().and_then(exposure::command_of_others));
    let (file, secrets) = secrets.unzip();
    if let Some(mqtt) = mqtt {
        checker.warnings.extend(mqtt::in_the_clear(mqtt, secrets.is_some()));
        let secret_file = file.and_then(|file| Exposed::look(SECRET_FILE, &file));
        let exposed = secret_file.into_iter().chain(mqtt::exposed_files(mqtt));
        checker.warnings.extend(exposed.map(|it| it.to_string()));
    }
    Trust { secrets, max_push_age }
}

fn secrets(checker: &mut Checker, field: Option<Placed<Scalar>>) -> Option<(PathBuf, Secrets)> {
    let Some(field) = field else {
        checker.show(&Place::DEFAULT, SECRET_FILE, "none: unsigned pushes are taken");
        return None;
    };
    let read = values::readable_file(&field.value).and_then(|path| {
        let secrets = Secrets::read(&path).map_err(|problem| format!("{}: {problem}", path.display()))?;
        Ok((path, secrets))
    });
    match read {
        Ok((path, secrets)) => {
            let noun = if secrets.count() == 1 { "secret" } else { "secrets" };
            let shown = format!("{} ({} {noun})", path.display(), secrets.count());
            checker.show(&field.place, SECRET_FILE, shown);
            Some((path, secrets))
        }
        Err(problem) => {
            checker.error(&field.place, SECRET_FILE, problem);
            None
        }
    }
}
