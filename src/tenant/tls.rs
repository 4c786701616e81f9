//! How TLS is used towards an upstream, and how the URLs of each protocol say it.

use std::collections::BTreeMap;

/// How TLS is used towards an upstream: libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsMode {
    /// Never.
    #[default]
    Disable,
    /// If the server offers it, unverified.
    Prefer,
    /// Always, unverified.
    Require,
    /// Always, and the certificate's chain must verify.
    VerifyCa,
    /// Always, and the certificate must also bear the host's name.
    VerifyFull,
}

type Options = BTreeMap<String, String>;

/// As libpq.
pub(super) fn postgres(options: &Options) -> Result<TlsMode, String> {
    match options.get("sslmode").map(String::as_str) {
        None | Some("prefer" | "allow") => Ok(TlsMode::Prefer),
        Some("disable") => Ok(TlsMode::Disable),
        Some(other) => verified(other),
    }
}

/// By the scheme, in the words of libpq or in those of redis-py's URLs.
pub(super) fn redis(scheme: &str, options: &Options) -> Result<TlsMode, String> {
    if !scheme.starts_with("rediss") {
        return Ok(TlsMode::Disable);
    }
    let is = |key: &str, value: &str| {
        let given = options.get(key);
        given.is_some_and(|given| given.eq_ignore_ascii_case(value))
    };
    if let Some(mode) = options.get("sslmode") {
        return verified(mode);
    }
    Ok(
        if flag(options, "insecure") || is("ssl_cert_reqs", "none") {
            TlsMode::Require
        } else if is("ssl_check_hostname", "false") {
            TlsMode::VerifyCa
        } else {
            TlsMode::VerifyFull
        },
    )
}

/// As the `MongoDB` drivers.
pub(super) fn mongodb(scheme: &str, options: &Options) -> TlsMode {
    let named = ["tls", "ssl"]
        .into_iter()
        .find(|key| options.contains_key(*key));
    let wanted = named.map_or(scheme == "mongodb+srv", |key| flag(options, key));
    let lax = flag(options, "tlsinsecure") || flag(options, "tlsallowinvalidcertificates");
    match (wanted, lax) {
        (false, _) => TlsMode::Disable,
        (true, true) => TlsMode::Require,
        (true, false) => TlsMode::VerifyFull,
    }
}

fn verified(mode: &str) -> Result<TlsMode, String> {
    match mode {
        "require" => Ok(TlsMode::Require),
        "verify-ca" => Ok(TlsMode::VerifyCa),
        "verify-full" => Ok(TlsMode::VerifyFull),
        other => Err(format!("'{other}' is unknown")),
    }
}

fn flag(options: &Options, key: &str) -> bool {
    let value = options.get(key);
    value.is_some_and(|value| value == "true" || value == "1")
}
