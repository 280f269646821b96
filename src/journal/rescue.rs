//! What it takes to bring the services of an interrupted attempt up, whatever the next start's configuration says.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::service::ManagerChoice;

/// The part of the configuration that is kept with an attempt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rescue {
    /// What stops the services.
    pub service_manager: ManagerChoice,
    /// The instance's environment.
    pub environment: Option<String>,
    /// How long a start may take; `None`: as long as the service itself says.
    pub start_timeout: Option<Duration>,
}

#[cfg(test)]
mod tests {
    use crate::service::{CustomManager, Template};

    use super::*;

    #[test]
    fn every_service_manager_is_read_as_it_was_written() {
        let template = |verb: &str| Template::new(vec![verb.into(), "{service}".into()]).unwrap();
        let custom = CustomManager {
            name: "openrc".into(),
            stop: template("stop"),
            start: template("start"),
            status: template("status"),
        };
        let choices = [ManagerChoice::Auto, ManagerChoice::Systemd, ManagerChoice::Upstart];
        for service_manager in choices.into_iter().chain([ManagerChoice::Custom(custom)]) {
            let start_timeout = Some(Duration::from_millis(1500));
            let rescue = Rescue { service_manager, environment: Some("demo".into()), start_timeout };
            let text = serde_json::to_string(&rescue).unwrap();
            assert_eq!(serde_json::from_str::<Rescue>(&text).unwrap(), rescue, "{text}");
        }
    }
}
