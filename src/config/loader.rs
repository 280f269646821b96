//! Loads the configuration, at the start and again and again: the sources on this host, and on EC2 those of the
//! metadata service.

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{debug, warn};

use crate::ec2::InstanceId;
use crate::imds::{Imds, ImdsError, Limit, Tags};

use super::error::{ConfigError, ConfigErrors};
use super::fragment::Fragment;
use super::source::{self, Place, Source, Sources};
use super::user_data::{self, Form, UserData};
use super::{Host, Loaded, Request, tags, validate};

/// How long a metadata service that gives no answer keeps a host waiting that can do without it.
const DISPENSABLE: Duration = Duration::from_secs(5);

const NO_USER_DATA: &str = "none";

/// Loads the configuration; remembers what cannot change and what was known last.
#[derive(Debug)]
pub struct Loader {
    request: Request,
    host: Host,
    imds: Option<Imds>,
    /// Asked for until there is an answer, and again only by a load that finds a mistake in it: EC2 changes it only while
    /// the instance is stopped, but others do not.
    user_data: Option<Result<UserData, ConfigErrors>>,
    tags: Option<Tags>,
    /// What was loaded last asks for tags, and to read them again.
    watches_tags: bool,
    /// The metadata service has said what is not in force yet.
    has_news: bool,
    /// `None`: a source on this host names another, or none was read yet.
    usual_state_dir: Option<PathBuf>,
    /// Nobody is shown what each setting was taken from.
    unshown: bool,
}

/// There is no configuration that could be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// No source says anything.
    #[error("not configured: {0}")]
    Unconfigured(Tried),
    /// What the sources say is wrong.
    #[error(transparent)]
    Invalid(#[from] ConfigErrors),
    /// The rest of the configuration is where nobody answers.
    #[error("{trouble}{}", and_without(.without.as_ref()))]
    Metadata {
        /// Why.
        trouble: ImdsError,
        /// What is missing without it; `None`: tags.
        without: Option<ConfigErrors>,
    },
    /// The program is at fault.
    #[error("the configuration could not be read: {0}")]
    Panic(String),
}

impl From<ImdsError> for LoadError {
    fn from(trouble: ImdsError) -> Self {
        Self::Metadata { trouble, without: None }
    }
}

fn and_without(errors: Option<&ConfigErrors>) -> String {
    errors.map_or_else(String::new, |errors| format!("\n{errors}"))
}

/// The sources that were looked at, each with what was found there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried(Vec<String>);

impl fmt::Display for Tried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl Loader {
    /// `endpoint`: where the metadata service is; `None`: it is not to be asked. Nothing is read or asked yet.
    pub fn new(request: Request, mut host: Host, endpoint: Option<&str>) -> Result<Self, LoadError> {
        host.platform.is_ec2 = request.is_on_ec2(&host);
        let endpoint = endpoint.filter(|_| host.platform.is_ec2);
        let imds = endpoint.map(Imds::new).transpose()?;
        Ok(Self {
            request,
            host,
            imds,
            user_data: None,
            tags: None,
            watches_tags: false,
            has_news: false,
            usual_state_dir: None,
            unshown: false,
        })
    }

    /// Leaves [`Loaded::shown`] empty: with many apps it takes more memory than the settings.
    pub fn show_nothing(&mut self) {
        self.unshown = true;
    }

    /// Where the state directory is when no source names another. `None`: one on this host did, when it was read last.
    pub fn usual_state_dir(&self) -> Option<&Path> {
        self.usual_state_dir.as_deref()
    }

    /// What the program's arguments said.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The instance, once it is known.
    pub fn instance_id(&self) -> Option<&InstanceId> {
        self.host.platform.instance_id.as_ref()
    }

    /// Loading may have to wait for the metadata service.
    pub fn asks_metadata(&self) -> bool {
        self.imds.is_some()
    }

    /// Reads, merges and validates every source; waits for the metadata service for at most `limit`.
    pub async fn load(&mut self, limit: Duration) -> Result<Loaded, LoadError> {
        let request = self.request.clone();
        let local = aside(move || source::read(&request)).await?;
        self.usual_state_dir = local.state_dir().is_none().then(super::default_state_dir);
        let mut warnings = Vec::new();
        let trouble = self.consult(&local, limit).await?;
        warnings.extend(trouble.as_ref().map(ToString::to_string));
        let sources = self.merged(local, &mut warnings)?;
        if sources.is_empty() {
            return Err(LoadError::Unconfigured(self.tried(trouble.as_ref())));
        }
        let hint = self.hint(&sources);
        let mut loaded = match (self.validated(sources).await, hint) {
            (Err(LoadError::Invalid(errors)), Some(hint)) => return Err(errors.and(hint).into()),
            (loaded, _) => loaded?,
        };
        loaded.warnings.splice(..0, warnings);
        self.watches_tags = loaded.settings.tag_refresh.is_some();
        Ok(loaded)
    }

    /// The metadata service was not to be reached so far, so that something of its may be missing.
    pub fn awaits_metadata(&self) -> bool {
        self.imds.is_some() && (self.user_data.is_none() || self.host.platform.instance_id.is_none())
    }

    /// The metadata service has said what is not in force yet.
    pub fn has_news(&self) -> bool {
        self.has_news
    }

    /// What was loaded last is in force now.
    pub fn taken_over(&mut self) {
        self.has_news = false;
    }

    /// Asks for what is not known yet, and for tags where they are watched.
    pub async fn look(&mut self, limit: Duration) -> Result<(), ImdsError> {
        let deadline = Instant::now() + limit;
        // Once, for it may be long until there is an answer.
        self.fetch_instance(Limit::once(deadline)).await?;
        if !self.watches_tags {
            return Ok(());
        }
        match self.fetch_tags(deadline.into()).await? {
            // There were some, which is not as it was at the start.
            Some(off) if self.tags.as_ref().is_some_and(|tags| !tags.is_empty()) => Err(off),
            _ => Ok(()),
        }
    }

    /// Asks the metadata service for what is not known yet. `Ok(Some(_))`: there was trouble, but what is known will do.
    async fn consult(&mut self, local: &Sources, limit: Duration) -> Result<Option<ImdsError>, LoadError> {
        let begun = Instant::now();
        let trouble = match self.fetch(local, begun + limit.min(DISPENSABLE)).await {
            Err(LoadError::Metadata { trouble, .. }) => trouble,
            done => return done,
        };
        // Somebody has decided so, and nobody has configured anything.
        let off = matches!(trouble, ImdsError::Off { .. });
        let nothing_else = off && local.is_empty() && self.user_data.is_none();
        let without = self.lacks_without(local).await;
        if nothing_else || without == Lack::Nothing {
            return Ok(Some(trouble));
        }
        if !trouble.may_pass() {
            return Err(without.because(trouble));
        }
        warn!(%trouble, "waiting for the metadata service: the configuration is incomplete without it");
        match self.fetch(local, begun + limit).await {
            Err(LoadError::Metadata { trouble, .. }) => Err(without.because(trouble)),
            done => done,
        }
    }

    /// `Ok(Some(_))`: the metadata holds no tags, though they are wanted.
    async fn fetch(&mut self, local: &Sources, deadline: Instant) -> Result<Option<ImdsError>, LoadError> {
        if let Some(Err(_)) = &self.user_data
            && let Err(trouble) = self.fetch_user_data(Limit::once(deadline)).await
        {
            debug!(%trouble, "user-data is not read again: the mistakes in it stand");
        }
        self.fetch_instance(deadline.into()).await?;
        if let Some(Err(mistakes)) = &self.user_data {
            return Err(mistakes.clone().into());
        }
        if !self.want_tags(local) {
            return Ok(None);
        }
        Ok(self.fetch_tags(deadline.into()).await?)
    }

    /// What an instance keeps for as long as it runs, unless it is known.
    async fn fetch_instance(&mut self, limit: Limit) -> Result<(), ImdsError> {
        if self.user_data.is_none() {
            self.fetch_user_data(limit).await?;
        }
        let Some(imds) = &self.imds else { return Ok(()) };
        if self.host.platform.instance_id.is_none() {
            self.host.platform.instance_id = Some(imds.instance_id(limit).await?);
        }
        Ok(())
    }

    async fn fetch_user_data(&mut self, limit: Limit) -> Result<(), ImdsError> {
        let Some(imds) = &self.imds else { return Ok(()) };
        let raw = imds.user_data(limit).await?;
        let read = raw.map_or(Ok(UserData::Foreign(NO_USER_DATA)), |raw| user_data::read(&raw));
        self.has_news |= !matches!(read, Ok(UserData::Foreign(_)));
        self.user_data = Some(read);
        Ok(())
    }

    /// `Ok(Some(_))`: the metadata holds no tags.
    async fn fetch_tags(&mut self, limit: Limit) -> Result<Option<ImdsError>, ImdsError> {
        let Some(imds) = &self.imds else { return Ok(None) };
        let tags = match imds.tags(tags::is_for_agent, limit).await {
            Err(off @ ImdsError::TagsOff { .. }) => {
                self.tags.get_or_insert_default();
                return Ok(Some(off));
            }
            tags => tags?,
        };
        self.has_news |= self.tags.as_ref() != Some(&tags);
        self.tags = Some(tags);
        Ok(None)
    }

    /// What is known already may do.
    async fn lacks_without(&self, local: &Sources) -> Lack {
        if self.want_tags(local) && self.tags.is_none() {
            return Lack::Tags;
        }
        let validated = match self.merged(local.clone(), &mut Vec::new()) {
            Ok(sources) => self.validated(sources).await,
            Err(errors) => Err(errors.into()),
        };
        match validated {
            Err(LoadError::Invalid(errors)) => Lack::Settings(errors),
            _ => Lack::Nothing,
        }
    }

    fn configured_by_user_data(&self) -> Option<(&Source, &Fragment)> {
        match &self.user_data {
            Some(Ok(UserData::Configuration(source, fragment))) => Some((source, fragment)),
            _ => None,
        }
    }

    fn want_tags(&self, local: &Sources) -> bool {
        local.want_tags(self.configured_by_user_data().map(|(_, fragment)| fragment))
    }

    fn merged(&self, local: Sources, warnings: &mut Vec<String>) -> Result<Sources, ConfigErrors> {
        if let Some(Ok(UserData::Damaged(what))) = &self.user_data {
            if local.is_empty() {
                let place = Place { source: Source::UserData(Form::Unknown), line: None };
                return Err(ConfigError::of_source(place, format!("is {what}")).into());
            }
            warnings.push(format!("user-data is not used: it is {what}"));
        }
        let want_tags = self.want_tags(&local);
        let mut sources = local;
        if let Some((source, fragment)) = self.configured_by_user_data() {
            sources.add_lowest(source.clone(), fragment.clone());
        }
        if let (true, Some(tags)) = (want_tags, &self.tags) {
            let tagged = tags::read(tags)?;
            warnings.extend_from_slice(&tagged.warnings);
            sources.add_tags(tagged);
        }
        Ok(sources)
    }

    async fn validated(&self, sources: Sources) -> Result<Loaded, LoadError> {
        let (host, may_ask, unshown) = (self.host.clone(), self.imds.is_some(), self.unshown);
        aside(move || validate::settings(sources, &host, may_ask, unshown)).await
    }

    /// Where no document says anything, what is missing may be in user-data that was not understood.
    fn hint(&self, sources: &Sources) -> Option<ConfigError> {
        let Some(Ok(UserData::Foreign(what))) = self.user_data else { return None };
        let place = Place { source: Source::UserData(Form::Unknown), line: None };
        let wanted = what != NO_USER_DATA && !sources.has_document();
        wanted.then(|| ConfigError::of_source(place, format!("gives nothing: it is {what}")))
    }

    fn tried(&self, trouble: Option<&ImdsError>) -> Tried {
        let path = self.request.path();
        let file = if path.exists() { "says nothing" } else { "does not exist" };
        let user_data = match (&self.user_data, trouble) {
            (Some(Ok(UserData::Foreign(what))), _) => (*what).to_owned(),
            (_, Some(trouble)) => trouble.to_string(),
            _ if self.host.platform.is_ec2 => "not read, as AWS_EC2_METADATA_DISABLED is true".to_owned(),
            _ => {
                "not read, as this does not look like an EC2 instance (--ec2 says that it is one)".to_owned()
            }
        };
        Tried(vec![
            "flags: none".to_owned(),
            format!("{}: {file}", path.display()),
            format!("user-data: {user_data}"),
        ])
    }
}

/// Opens files, looks up users, takes time where there are many apps: not for the thread that all else waits for.
async fn aside<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, ConfigErrors> + Send + 'static,
) -> Result<T, LoadError> {
    let done = tokio::task::spawn_blocking(work).await;
    Ok(done.map_err(|panic| LoadError::Panic(panic.to_string()))??)
}

/// What is missing for a start without the metadata service.
#[derive(Debug, PartialEq, Eq)]
enum Lack {
    Nothing,
    Tags,
    Settings(ConfigErrors),
}

impl Lack {
    fn because(self, trouble: ImdsError) -> LoadError {
        let without = match self {
            Self::Settings(errors) => Some(errors),
            Self::Nothing | Self::Tags => None,
        };
        LoadError::Metadata { trouble, without }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_usual_state_directory_is_one_that_no_source_on_this_host_names() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("config.yaml");
        let rest = "mqtt: {url: mqtt://localhost, client_id: a}\napps: [{repo: acme/api, service: api}]\n";
        let usual = Some(super::super::default_state_dir());
        for (state_dir, flag, expected) in [
            ("", None, usual.as_deref()),
            ("state_dir: /srv/state\n", None, None),
            ("", Some("/srv/state"), None),
        ] {
            std::fs::write(&file, format!("{state_dir}{rest}")).unwrap();
            let flags = crate::config::Flags { state_dir: flag.map(PathBuf::from), ..Default::default() };
            let request = Request { file: Some(file.clone()), flags };
            let mut loader = Loader::new(request, Host::detect(), None).unwrap();
            loader.load(Duration::ZERO).await.unwrap();
            assert_eq!(loader.usual_state_dir(), expected, "{state_dir:?} {flag:?}");
        }
    }
}
