//! The files that TLS needs, made into a configuration of rustls.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WantsClientCert;
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ConfigBuilder, RootCertStore};

use super::settings::TlsSettings;

/// Why there is no configuration: each names the file and its key in the configuration.
#[derive(Debug, thiserror::Error)]
pub(super) enum TlsError {
    #[error("cannot read {key} {path}: {reason}")]
    Read { key: &'static str, path: PathBuf, reason: String },
    #[error("{key} {path} holds no {what} in PEM form")]
    Empty { key: &'static str, path: PathBuf, what: &'static str },
    #[error("{key} {path} holds a certificate that cannot be used: {reason}")]
    Unusable { key: &'static str, path: PathBuf, reason: rustls::Error },
    #[error("mqtt.cert_file {cert} cannot be used with mqtt.key_file {key}: {reason}")]
    Pair { cert: PathBuf, key: PathBuf, reason: rustls::Error },
    #[error("mqtt.cert_file and mqtt.key_file must be given together")]
    Half,
    #[error("the system has no root certificates: install ca-certificates, or set mqtt.ca_file")]
    NoRoots,
    #[error("TLS cannot be set up: {0}")]
    Setup(rustls::Error),
}

/// Reads all files anew.
pub(super) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = client_auth(trusting(roots(settings.ca_file.as_deref())?)?, settings)?;
    config.alpn_protocols = settings.alpn.iter().map(|protocol| protocol.clone().into_bytes()).collect();
    Ok(Arc::new(config))
}

/// Does the key belong to the certificate?
pub(super) fn check_pair(cert: &Path, key: &Path) -> Result<(), TlsError> {
    let settings =
        TlsSettings { cert_file: Some(cert.into()), key_file: Some(key.into()), ..TlsSettings::default() };
    client_auth(trusting(RootCertStore::empty())?, &settings).map(drop)
}

fn trusting(roots: RootCertStore) -> Result<ConfigBuilder<ClientConfig, WantsClientCert>, TlsError> {
    // Named, for a second crypto provider anywhere in the build would make the default one a panic.
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    Ok(builder.map_err(TlsError::Setup)?.with_root_certificates(roots))
}

pub(super) fn roots(ca_file: Option<&Path>) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    let Some(path) = ca_file else {
        // Some of a system's roots may be unusable without any harm.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        return if roots.is_empty() { Err(TlsError::NoRoots) } else { Ok(roots) };
    };
    for certificate in certificates("mqtt.ca_file", path)? {
        roots.add(certificate).map_err(|reason| TlsError::Unusable {
            key: "mqtt.ca_file",
            path: path.into(),
            reason,
        })?;
    }
    Ok(roots)
}

fn client_auth(
    builder: ConfigBuilder<ClientConfig, WantsClientCert>,
    settings: &TlsSettings,
) -> Result<ClientConfig, TlsError> {
    match (&settings.cert_file, &settings.key_file) {
        (None, None) => Ok(builder.with_no_client_auth()),
        (Some(cert), Some(key)) => builder
            .with_client_auth_cert(certificates("mqtt.cert_file", cert)?, private_key(key)?)
            .map_err(|reason| TlsError::Pair { cert: cert.clone(), key: key.clone(), reason }),
        _ => Err(TlsError::Half),
    }
}

pub(super) fn certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(key, path, "certificate", &error))?;
    if found.is_empty() {
        return Err(TlsError::Empty { key, path: path.into(), what: "certificate" });
    }
    Ok(found)
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    PrivateKeyDer::from_pem_file(path)
        .map_err(|error| unreadable("mqtt.key_file", path, "private key", &error))
}

fn unreadable(key: &'static str, path: &Path, what: &'static str, error: &pem::Error) -> TlsError {
    let reason = match error {
        pem::Error::NoItemsFound => return TlsError::Empty { key, path: path.into(), what },
        pem::Error::Io(error) => error.to_string(),
        // The library's own words quote the file, which may be a private key in the wrong place.
        _ => "it is damaged: not valid PEM".into(),
    };
    TlsError::Read { key, path: path.into(), reason }
}
