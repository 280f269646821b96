//! What validation asks of the configuration's files: could a connection use them? Each answer names the key.

use std::path::Path;

use super::{link, tls};

pub(crate) fn check_password_file(path: &Path) -> Result<(), String> {
    link::password_in(path).map(drop)
}

pub(crate) fn check_ca_file(path: &Path) -> Result<(), String> {
    tls::roots(Some(path)).map(drop).map_err(|error| error.to_string())
}

pub(crate) fn check_cert_file(path: &Path) -> Result<(), String> {
    tls::certificates("mqtt.cert_file", path).map(drop).map_err(|error| error.to_string())
}

pub(crate) fn check_key_file(path: &Path) -> Result<(), String> {
    tls::private_key(path).map(drop).map_err(|error| error.to_string())
}

/// Does the key belong to the certificate?
pub(crate) fn check_pair(cert: &Path, key: &Path) -> Result<(), String> {
    tls::check_pair(cert, key).map_err(|error| error.to_string())
}
