//! Any other service manager: three commands of the configuration.

use serde::{Deserialize, Serialize};

use super::client::{Finished, run};
use super::{Answer, Limits, ServiceError, ServiceManager, ServiceName, Status, Trace};

/// What stands for the service in a [`Template`].
const SERVICE: &str = "{service}";

/// A command with `{service}` in it: a program and its arguments, which no shell reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Vec<String>", into = "Vec<String>")]
pub struct Template(Vec<String>);

/// Why a list of words is no [`Template`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// No words, or an empty first one.
    #[error(
        "names no program: give a list of the program and its arguments, such as [rc-service, \"{{service}}\", stop]"
    )]
    NoProgram,
    /// It would do the same for every service.
    #[error("does not mention \"{{service}}\": write it where the name of the service belongs")]
    NoService,
    /// A NUL character, which no command can be given.
    #[error("contains a NUL character: take it out")]
    Nul,
}

impl TryFrom<Vec<String>> for Template {
    type Error = TemplateError;

    fn try_from(words: Vec<String>) -> Result<Self, TemplateError> {
        Self::new(words)
    }
}

impl From<Template> for Vec<String> {
    fn from(template: Template) -> Self {
        template.0
    }
}

impl Template {
    /// The first word is the program.
    pub fn new(words: Vec<String>) -> Result<Self, TemplateError> {
        if words.first().is_none_or(String::is_empty) {
            Err(TemplateError::NoProgram)
        } else if words.iter().any(|word| word.contains('\0')) {
            Err(TemplateError::Nul)
        } else if !words.iter().any(|word| word.contains(SERVICE)) {
            Err(TemplateError::NoService)
        } else {
            Ok(Self(words))
        }
    }

    /// The words as they were written.
    pub fn words(&self) -> &[String] {
        &self.0
    }

    fn fill(&self, service: &ServiceName) -> Vec<String> {
        self.0.iter().map(|word| word.replace(SERVICE, service.as_str())).collect()
    }
}

/// A service manager made of commands. All it knows of a running service is that it runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CustomManager {
    /// What logs call it.
    pub name: String,
    /// Stops the service; must succeed when it is down already.
    pub stop: Template,
    /// Starts the service; gets the revision as environment.
    pub start: Template,
    /// Exits with 0 when the service runs.
    pub status: Template,
}

impl ServiceManager for CustomManager {
    fn name(&self) -> &str {
        &self.name
    }

    fn stop<'a>(&'a self, service: &'a ServiceName, trace: &'a Trace<'a>) -> Answer<'a, ()> {
        Box::pin(async { succeed(perform(&self.stop, service, &[], Some(trace)).await?) })
    }

    fn start<'a>(
        &'a self,
        service: &'a ServiceName,
        environment: &'a [(String, String)],
        trace: &'a Trace<'a>,
    ) -> Answer<'a, ()> {
        Box::pin(async move { succeed(perform(&self.start, service, environment, Some(trace)).await?) })
    }

    fn status<'a>(&'a self, service: &'a ServiceName) -> Answer<'a, Status> {
        Box::pin(async {
            let finished = perform(&self.status, service, &[], None).await?;
            match (finished.success(), finished.exited()) {
                (true, _) => Ok(Status::Running { incarnation: None }),
                (false, true) => Ok(Status::Stopped),
                // Killed before it could answer.
                (false, false) => Err(finished.into_failure()),
            }
        })
    }

    fn limits<'a>(&'a self, _service: &'a ServiceName) -> Answer<'a, Limits> {
        Box::pin(std::future::ready(Ok(Limits::default())))
    }
}

async fn perform(
    template: &Template,
    service: &ServiceName,
    environment: &[(String, String)],
    trace: Option<&Trace<'_>>,
) -> Result<Finished, ServiceError> {
    let words = template.fill(service);
    let argv: Vec<&str> = words.iter().map(String::as_str).collect();
    run(&argv, environment, trace).await
}

fn succeed(finished: Finished) -> Result<(), ServiceError> {
    if finished.success() { Ok(()) } else { Err(finished.into_failure()) }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn template(words: &[&str]) -> Result<Template, TemplateError> {
        Template::new(words.iter().map(|word| (*word).to_owned()).collect())
    }

    #[test]
    fn the_service_may_be_a_word_or_a_part_of_one() {
        let template =
            template(&["/etc/init.d/{service}", "-n{service}:{service}", "{service}", "x"]).unwrap();
        let filled = template.fill(&"api".parse().unwrap());
        assert_eq!(filled, ["/etc/init.d/api", "-napi:api", "api", "x"]);
    }

    #[test]
    fn templates_need_a_program_and_the_service() {
        assert_eq!(template(&[]), Err(TemplateError::NoProgram));
        assert_eq!(template(&["", "{service}"]), Err(TemplateError::NoProgram));
        assert_eq!(template(&["stop", "{ service }"]), Err(TemplateError::NoService));
        assert_eq!(template(&["stop", "{service}", "\0"]), Err(TemplateError::Nul));
        let text = TemplateError::NoService.to_string();
        assert!(text.contains("\"{service}\""), "{text}");
    }
}
