//! `polypool check-config`: whether the gateway would start with these settings.

use std::path::Path;

use serde_json::json;

use super::output::Output;
use crate::{
    config::{Config, ConfigFault, DEFAULT_FILE},
    crypto::Keyring,
    net::tls::ServerTls,
};

/// Key, line and variable faults have been found by loading; here is what else can be known.
pub(super) fn run(config: &Config, file: Option<&Path>, output: &Output) -> anyhow::Result<()> {
    config.check_registry()?;
    let unusable = |key: &'static str| {
        move |error: &dyn std::fmt::Display| ConfigFault::Value {
            key,
            why: error.to_string(),
        }
    };
    if let Some(keys) = config.secrets.encryption_keys.get() {
        Keyring::parse(keys.expose())
            .map_err(|error| unusable("secrets.encryption_keys")(&error))?;
    }
    let tls = &config.tls;
    tls.client_tls()
        .map_err(|error| unusable("tls.upstream_roots")(&error))?;
    if let Some(files) = tls.server_files() {
        ServerTls::load(&files)
            .map_err(|error| unusable("tls.certificate, tls.key, tls.client_roots")(&error))?;
    }
    let default = Path::new(DEFAULT_FILE);
    let file = file.or_else(|| default.is_file().then_some(default));
    let value = json!({ "valid": true, "file": file, "config": toml::Table::try_from(config)? });
    output.result(&value, |_| {
        vec![match file {
            Some(file) => format!("{} is sound", file.display()),
            None => "no file; the defaults and the environment are sound".to_owned(),
        }]
    })
}
