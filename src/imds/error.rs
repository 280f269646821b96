//! Why the metadata service gave no answer, and what to do about it.

use std::io;

use reqwest::StatusCode;

/// The metadata service gave no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImdsError {
    /// The endpoint is no address of an HTTP server.
    #[error(
        "AWS_EC2_METADATA_SERVICE_ENDPOINT: {endpoint:?} must be http://HOST[:PORT], such as http://169.254.169.254"
    )]
    Endpoint {
        /// What was given.
        endpoint: String,
    },
    /// Neither version of IP.
    #[error("AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE: {mode:?} must be IPv4 or IPv6")]
    Mode {
        /// What was given.
        mode: String,
    },
    /// Somebody has switched it off for this instance.
    #[error(
        "the instance metadata service is off: {url} answers 403 Forbidden; switch it on (HttpEndpoint=enabled), or do \
         without its user-data and tags"
    )]
    Off {
        /// What was asked for.
        url: String,
    },
    /// Nobody is there who would answer, or a firewall answers for the service.
    #[error(
        "the instance metadata service is off, or not there yet: {url} refuses the connection; let this user reach it \
         through the firewall of this host, or do without its user-data and tags"
    )]
    Refused {
        /// What was asked for.
        url: String,
    },
    /// No answer at all.
    #[error(
        "the instance metadata service is silent: {url} does not answer; in a container its hop limit must be at \
         least 2 (HttpPutResponseHopLimit)"
    )]
    Silent {
        /// What was asked for.
        url: String,
    },
    /// It cannot be reached, or the connection broke.
    #[error("the instance metadata service cannot be reached: {url}: {cause}")]
    Unreachable {
        /// What was asked for.
        url: String,
        /// Why.
        cause: String,
    },
    /// There are no tags in the metadata.
    #[error(
        "{url} does not exist: the instance's metadata holds no tags; let it (InstanceMetadataTags=enabled)"
    )]
    TagsOff {
        /// What was asked for.
        url: String,
    },
    /// It answers, but not as it should.
    #[error("the instance metadata service answers {status} to {url}")]
    Status {
        /// What was asked for.
        url: String,
        /// The status.
        status: StatusCode,
    },
    /// It answers with something else than was asked for.
    #[error("the instance metadata service answers {url} with what {problem}")]
    Answer {
        /// What was asked for.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
}

impl ImdsError {
    /// Nobody has to do anything about it: asking again may help.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Refused { .. } | Self::Silent { .. } | Self::Unreachable { .. } => true,
            Self::Status { status, .. } => {
                *status == StatusCode::TOO_MANY_REQUESTS || status.is_server_error()
            }
            Self::Endpoint { .. }
            | Self::Mode { .. }
            | Self::Off { .. }
            | Self::TagsOff { .. }
            | Self::Answer { .. } => false,
        }
    }

    /// The environment of this program is wrong, which another start does not change.
    pub fn of_environment(&self) -> bool {
        matches!(self, Self::Endpoint { .. } | Self::Mode { .. })
    }

    pub(super) fn of_status(url: &str, status: StatusCode) -> Self {
        if status == StatusCode::FORBIDDEN {
            return Self::Off { url: url.to_owned() };
        }
        Self::Status { url: url.to_owned(), status }
    }

    pub(super) fn of_transport(url: &str, error: &reqwest::Error) -> Self {
        let url = url.to_owned();
        let refused = causes(error).any(|cause| {
            cause.downcast_ref::<io::Error>().is_some_and(|it| it.kind() == io::ErrorKind::ConnectionRefused)
        });
        if error.is_timeout() {
            Self::Silent { url }
        } else if refused {
            Self::Refused { url }
        } else {
            // The last cause says it best; the others repeat the URL.
            let cause = causes(error).last().map_or_else(|| error.to_string(), ToString::to_string);
            Self::Unreachable { url, cause }
        }
    }
}

fn causes(error: &reqwest::Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    std::iter::successors(std::error::Error::source(error), |cause| cause.source())
}
