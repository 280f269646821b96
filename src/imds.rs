//! The instance metadata service of EC2, version 2: every request carries a token, which version 1 does not know.

mod error;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use reqwest::header::{HeaderMap, HeaderValue};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Url, redirect, retry};
use tokio::time::{Instant, sleep};
use tracing::debug;

use crate::ec2::InstanceId;

pub use error::ImdsError;

const IPV4: &str = "http://169.254.169.254";
const IPV6: &str = "http://[fd00:ec2::254]";

/// The longest that a token may live.
const TOKEN_LIFE: Duration = Duration::from_secs(6 * 60 * 60);
/// A token with less to live is not used any more. A tenth of its life, where that is shorter.
const TOKEN_RESERVE: Duration = Duration::from_secs(60);
/// A request to the same machine takes milliseconds.
const REQUEST_LIMIT: Duration = Duration::from_secs(2);

const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What EC2 allows for user-data.
pub const MAX_USER_DATA: usize = 16 * 1024;
/// An instance has at most 50 tags, with keys of 128 characters.
const MAX_ANSWER: usize = 64 * 1024;

/// The tags of an instance, by key.
pub type Tags = BTreeMap<String, String>;

/// How long to ask.
#[derive(Debug, Clone, Copy)]
pub struct Limit {
    deadline: Instant,
    /// Trouble that may pass is waited out.
    patient: bool,
}

impl Limit {
    /// Each question is put once.
    pub fn once(deadline: Instant) -> Self {
        Self { deadline, patient: false }
    }
}

impl From<Instant> for Limit {
    fn from(deadline: Instant) -> Self {
        Self { deadline, patient: true }
    }
}

/// A client of the metadata service.
pub struct Imds {
    http: Client,
    base: Url,
    token: Mutex<Option<Token>>,
}

/// Its value goes nowhere but into requests.
#[derive(Clone)]
struct Token {
    value: HeaderValue,
    stale: Instant,
}

impl fmt::Debug for Imds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Imds").field("base", &self.base.as_str()).finish_non_exhaustive()
    }
}

/// Where the environment says that the metadata service is, in the variables of AWS's SDKs. `None`: not to be used.
pub fn endpoint(variable: impl Fn(&str) -> Option<String>) -> Result<Option<String>, ImdsError> {
    let given = |name| variable(name).filter(|value| !value.is_empty());
    if given("AWS_EC2_METADATA_DISABLED").is_some_and(|it| it.eq_ignore_ascii_case("true")) {
        return Ok(None);
    }
    if let Some(endpoint) = given("AWS_EC2_METADATA_SERVICE_ENDPOINT") {
        return Ok(Some(endpoint));
    }
    let by_mode = match given("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE") {
        Some(mode) if mode.eq_ignore_ascii_case("ipv6") => IPV6,
        Some(mode) if !mode.eq_ignore_ascii_case("ipv4") => return Err(ImdsError::Mode { mode }),
        _ => IPV4,
    };
    Ok(Some(by_mode.to_owned()))
}

/// What may be shown of an endpoint.
fn without_login(endpoint: &str) -> &str {
    endpoint.rsplit('@').next().unwrap_or_default()
}

impl Imds {
    /// Asks the service at `endpoint`; nothing is sent yet.
    pub fn new(endpoint: &str) -> Result<Self, ImdsError> {
        let invalid = || ImdsError::Endpoint { endpoint: without_login(endpoint).to_owned() };
        let base = endpoint.parse::<Url>().map_err(|_| invalid())?;
        if base.scheme() != "http"
            || base.query().is_some()
            || base.fragment().is_some()
            || !base.username().is_empty()
        {
            return Err(invalid());
        }
        let http = Client::builder()
            .no_proxy()
            .redirect(redirect::Policy::none())
            .retry(retry::never())
            // A connection costs less than finding out that an idle one was closed.
            .pool_max_idle_per_host(0)
            .build()
            .map_err(|_| invalid())?;
        Ok(Self { http, base, token: Mutex::new(None) })
    }

    /// The user-data as it was given. `None`: there is none.
    pub async fn user_data(&self, limit: impl Into<Limit>) -> Result<Option<Vec<u8>>, ImdsError> {
        self.get(&["user-data"], MAX_USER_DATA, limit.into()).await
    }

    /// The id of this instance.
    pub async fn instance_id(&self, limit: impl Into<Limit>) -> Result<InstanceId, ImdsError> {
        let path = ["meta-data", "instance-id"];
        let answer = self.get(&path, MAX_ANSWER, limit.into()).await?.unwrap_or_default();
        text(answer).parse().map_err(|problem| self.unexpected(&path, problem))
    }

    /// The tags whose keys are wanted.
    pub async fn tags(
        &self,
        wanted: impl Fn(&str) -> bool,
        limit: impl Into<Limit>,
    ) -> Result<Tags, ImdsError> {
        let limit = limit.into();
        let path = ["meta-data", "tags", "instance"];
        let Some(keys) = self.get(&path, MAX_ANSWER, limit).await? else {
            return Err(ImdsError::TagsOff { url: self.url(&path).to_string() });
        };
        let mut tags = Tags::new();
        for key in text(keys).lines().filter(|key| wanted(key)) {
            // None: removed since the keys were listed.
            if let Some(value) = self.get(&[&path[..], &[key]].concat(), MAX_ANSWER, limit).await? {
                tags.insert(key.to_owned(), text(value));
            }
        }
        Ok(tags)
    }

    /// `None`: there is no such thing. Trouble that may pass is waited out until the deadline.
    async fn get(
        &self,
        path: &[&str],
        max: usize,
        Limit { deadline, patient }: Limit,
    ) -> Result<Option<Vec<u8>>, ImdsError> {
        let url = self.url(path);
        let mut ceiling = FIRST_PAUSE;
        loop {
            let trouble = match self.attempt(&url, max, deadline).await {
                Err(trouble) if trouble.may_pass() => trouble,
                answer => return answer,
            };
            let pause = ceiling.mul_f64(0.5 + fastrand::f64() / 2.0);
            if !patient || Instant::now() + pause >= deadline {
                return Err(trouble);
            }
            debug!(%trouble, "asking the metadata service again");
            sleep(pause).await;
            ceiling = (ceiling * 2).min(LONGEST_PAUSE);
        }
    }

    async fn attempt(&self, url: &Url, max: usize, deadline: Instant) -> Result<Option<Vec<u8>>, ImdsError> {
        let mut response = self.ask(url, deadline).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            self.keep_token(None);
            response = self.ask(url, deadline).await?;
        }
        match response.status() {
            StatusCode::OK => body(response, max).await.map(Some),
            StatusCode::NOT_FOUND => Ok(None),
            status => Err(ImdsError::of_status(url.as_str(), status)),
        }
    }

    async fn ask(&self, url: &Url, deadline: Instant) -> Result<Response, ImdsError> {
        let token = self.token(deadline).await?;
        send(self.http.get(url.clone()).header("x-aws-ec2-metadata-token", token), url, deadline).await
    }

    /// The token, renewed before it runs out.
    async fn token(&self, deadline: Instant) -> Result<HeaderValue, ImdsError> {
        let kept = self.token.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(token) = kept.filter(|token| Instant::now() < token.stale) {
            return Ok(token.value);
        }
        let url = self.url(&["api", "token"]);
        let asked = Instant::now();
        let request = self.http.put(url.clone()).header(TTL, TOKEN_LIFE.as_secs());
        let response = send(request, &url, deadline).await?;
        if response.status() != StatusCode::OK {
            return Err(ImdsError::of_status(url.as_str(), response.status()));
        }
        let life = life(response.headers());
        let no_token = || ImdsError::Answer { url: url.to_string(), problem: "is no token".to_owned() };
        let mut value = HeaderValue::from_str(text(body(response, MAX_ANSWER).await?).as_str())
            .map_err(|_| no_token())?;
        value.set_sensitive(true);
        self.keep_token(Some(Token {
            value: value.clone(),
            stale: asked + life - TOKEN_RESERVE.min(life / 10),
        }));
        Ok(value)
    }

    fn keep_token(&self, token: Option<Token>) {
        *self.token.lock().unwrap_or_else(PoisonError::into_inner) = token;
    }

    fn url(&self, path: &[&str]) -> Url {
        let mut url = self.base.clone();
        // Never an error: `new` lets only http:// pass, which has a path.
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push("latest").extend(path);
        }
        url
    }

    fn unexpected(&self, path: &[&str], problem: &str) -> ImdsError {
        ImdsError::Answer { url: self.url(path).to_string(), problem: problem.to_owned() }
    }
}

const TTL: &str = "x-aws-ec2-metadata-token-ttl-seconds";

fn life(headers: &HeaderMap) -> Duration {
    let seconds = headers.get(TTL).and_then(|value| value.to_str().ok()).and_then(|value| value.parse().ok());
    seconds.map_or(TOKEN_LIFE, Duration::from_secs).min(TOKEN_LIFE)
}

async fn send(request: RequestBuilder, url: &Url, deadline: Instant) -> Result<Response, ImdsError> {
    let limit = REQUEST_LIMIT.min(deadline.saturating_duration_since(Instant::now()));
    request.timeout(limit).send().await.map_err(|error| ImdsError::of_transport(url.as_str(), &error))
}

async fn body(mut response: Response, limit: usize) -> Result<Vec<u8>, ImdsError> {
    let url = response.url().to_string();
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| ImdsError::of_transport(&url, &error))? {
        bytes.extend_from_slice(&chunk);
        if bytes.len() > limit {
            return Err(ImdsError::Answer { url, problem: format!("is larger than {limit} bytes") });
        }
    }
    Ok(bytes)
}

/// As text without the end of its last line.
fn text(bytes: Vec<u8>) -> String {
    let text = String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned());
    text.trim_end_matches(['\r', '\n']).to_owned()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_endpoint_is_found_as_the_sdks_do() {
        let of = |variables: &[(&str, &str)]| {
            endpoint(|name| variables.iter().find(|it| it.0 == name).map(|it| it.1.to_owned()))
        };
        let explicit = ("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://127.0.0.1:1338");
        let ipv6 = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IPv6");
        let at = |endpoint: &str| Ok(Some(endpoint.to_owned()));
        assert_eq!(of(&[]), at(IPV4));
        assert_eq!(of(&[ipv6]), at(IPV6));
        assert_eq!(of(&[explicit, ipv6]), at("http://127.0.0.1:1338"));
        assert_eq!(of(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT", "")]), at(IPV4));
        assert_eq!(of(&[("AWS_EC2_METADATA_DISABLED", "TRUE"), explicit]), Ok(None));
        assert_eq!(of(&[("AWS_EC2_METADATA_DISABLED", "false")]), at(IPV4));
        for (mode, expected) in [("ipv4", IPV4), ("IPV6", IPV6), ("", IPV4)] {
            assert_eq!(of(&[("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", mode)]), at(expected), "{mode}");
        }
        let mistyped = ("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE", "IP6");
        let problem = of(&[mistyped]).unwrap_err().to_string();
        assert_eq!(problem, "AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: \"IP6\" must be IPv4 or IPv6");
        assert_eq!(of(&[("AWS_EC2_METADATA_DISABLED", "true"), mistyped]), Ok(None));
        assert_eq!(of(&[explicit, mistyped]), at("http://127.0.0.1:1338"), "it decides nothing there");
    }

    #[test]
    fn an_endpoint_is_an_http_address() {
        for good in [IPV4, IPV6, "http://[fd00:ec2::254]/", "http://localhost:1338/"] {
            assert!(Imds::new(good).is_ok(), "{good}");
        }
        for bad in
            ["", "169.254.169.254", "https://169.254.169.254", "http://", "http://x/?y", "http://u:p@x"]
        {
            assert!(Imds::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn keys_are_escaped_in_paths() {
        let imds = Imds::new("http://127.0.0.1:1338/").unwrap();
        let url = imds.url(&["meta-data", "tags", "instance", "a/b?c#d e%f:g@h+i"]);
        let escaped = "http://127.0.0.1:1338/latest/meta-data/tags/instance/a%2Fb%3Fc%23d%20e%25f:g@h+i";
        assert_eq!(url.as_str(), escaped);
    }
}
