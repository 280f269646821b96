//! Command-line flags → fragments, one for each flag, so that a mistake names its flag.

use std::path::PathBuf;

use super::error::{ConfigError, ConfigErrors};
use super::fragment::{
    AppFragment, BranchFragment, Ec2Fragment, Fragment, List, Mapping, MqttFragment, OneOrMany, Scalar,
};
use super::lined::Lined;
use super::source::{Place, Source};

/// The flags that say what a file could say.
#[derive(Debug, Clone, Default)]
pub struct Flags {
    /// `--broker`
    pub broker: Option<String>,
    /// `--environment`
    pub environment: Option<String>,
    /// `--app`, once for each app: `OWNER/REPO[@BRANCH]=SERVICE`
    pub apps: Vec<String>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--ec2`: an EC2 instance, even if it does not look like one
    pub ec2: bool,
    /// `--ec2-tags`
    pub ec2_tags: bool,
}

impl Flags {
    pub(super) fn fragments(&self) -> Result<Vec<(Source, Fragment)>, ConfigErrors> {
        let mut fragments = Vec::new();
        let mut add = |flag, fragment| fragments.push((Source::Flag(flag), fragment));
        if let Some(url) = &self.broker {
            let mqtt = MqttFragment { url: Some(text(url)), ..MqttFragment::default() };
            add(
                "--broker",
                Fragment {
                    mqtt: Some(Lined::nowhere(Mapping::Fields(Box::new(mqtt)))),
                    ..Fragment::default()
                },
            );
        }
        if let Some(environment) = &self.environment {
            add("--environment", Fragment { environment: Some(text(environment)), ..Fragment::default() });
        }
        if let Some(dir) = &self.state_dir {
            let dir = dir.to_str().ok_or_else(|| mistake("--state-dir", "is not UTF-8".to_owned()))?;
            add("--state-dir", Fragment { state_dir: Some(text(dir)), ..Fragment::default() });
        }
        if self.ec2_tags {
            let ec2 =
                Ec2Fragment { tags: Some(Lined::nowhere(Scalar::Bool(true))), ..Ec2Fragment::default() };
            let ec2 = Some(Lined::nowhere(Mapping::Fields(Box::new(ec2))));
            add("--ec2-tags", Fragment { ec2, ..Fragment::default() });
        }
        if !self.apps.is_empty() {
            let apps = self.apps.iter().map(|it| app(it)).collect::<Result<_, _>>()?;
            add("--app", Fragment { apps: Some(Lined::nowhere(List::Items(apps))), ..Fragment::default() });
        }
        Ok(fragments)
    }
}

fn app(text_of_app: &str) -> Result<Lined<Mapping<AppFragment>>, ConfigErrors> {
    let malformed = || mistake("--app", format!("{text_of_app:?} must be OWNER/REPO[@BRANCH]=SERVICE"));
    app_of(text_of_app).map(|app| Lined::nowhere(Mapping::Fields(app))).ok_or_else(malformed)
}

/// `OWNER/REPO[@BRANCH]=SERVICE`. A branch may contain `=`, a service may not: hence the last one divides.
pub(super) fn app_of(text_of_app: &str) -> Option<AppFragment> {
    let (target, service) = text_of_app.rsplit_once('=')?;
    let (repo, branch) = target.split_once('@').map_or((target, None), |(repo, branch)| (repo, Some(branch)));
    let branch = branch.map(|branch| BranchFragment::Everywhere(OneOrMany::One(Scalar::Text(branch.into()))));
    Some(AppFragment {
        repo: Some(text(repo)),
        service: Some(text(service)),
        branch: branch.map(Lined::nowhere),
        ..AppFragment::default()
    })
}

pub(super) fn text(value: &str) -> Lined<Scalar> {
    Lined::nowhere(Scalar::Text(value.into()))
}

fn mistake(flag: &'static str, problem: String) -> ConfigErrors {
    ConfigError::of_source(Place { source: Source::Flag(flag), line: None }, problem).into()
}
