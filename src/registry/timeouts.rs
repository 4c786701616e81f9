//! The timeouts of one database, as its `config` object has them: texts such as `"30s"`.

use std::time::Duration;

use humantime_serde::re::humantime::parse_duration;
use serde_json::Value;

use crate::tenant::Timeouts;

/// Reads them; what is absent is `None`.
///
/// # Errors
/// The name of the key that is not a duration.
pub(super) fn read(config: &Value) -> Result<Timeouts, &'static str> {
    let find = |key: &'static str| -> Result<Option<Duration>, &'static str> {
        let Some(value) = config.get(key) else {
            return Ok(None);
        };
        let duration = value.as_str().and_then(|text| parse_duration(text).ok());
        duration.map(Some).ok_or(key)
    };
    Ok(Timeouts {
        query: find("query_max")?,
        transaction_idle: find("transaction_idle_max")?,
        client_idle: find("client_idle_max")?,
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn durations_are_read_and_nonsense_is_named() {
        let timeouts = read(&json!({ "query_max": "1m", "other": 7 })).unwrap();
        assert_eq!(timeouts.query, Some(Duration::from_mins(1)));
        assert_eq!(timeouts.client_idle, None);
        assert_eq!(
            read(&json!({ "client_idle_max": 5 })),
            Err("client_idle_max")
        );
    }
}
