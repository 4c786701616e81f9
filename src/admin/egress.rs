//! Where a connection test may not go: link-local and metadata addresses, multicast, "any".
//!
//! The name is resolved here and again when it is dialled; a name server that changes its answer in
//! between is not held off by this.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::answer::{ApiError, Code};
use crate::tenant::Target;

/// Metadata services outside the link-local ranges.
const METADATA: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// Refuses a target with an address that must not be dialled. Names that do not resolve pass: the
/// test itself says so better.
pub(super) async fn check(target: &Target, allowed: &[String]) -> Result<(), ApiError> {
    for endpoint in &target.endpoints {
        let found = tokio::net::lookup_host((endpoint.host.as_str(), endpoint.port)).await;
        for address in found.into_iter().flatten() {
            let address = address.ip().to_canonical();
            if is_denied(address) && !allowed.iter().any(|range| covers(range, address)) {
                return Err(ApiError::new(
                    Code::EgressDenied,
                    format!(
                        "{}:{} leads to {address}, a link-local, metadata, multicast or unspecified \
                         address, which is not dialled; \
                         name it under admin.egress_allow if it is a database of yours",
                        endpoint.host, endpoint.port
                    ),
                ));
            }
        }
    }
    Ok(())
}

fn is_denied(address: IpAddr) -> bool {
    METADATA.contains(&address)
        || match address {
            IpAddr::V4(v4) => {
                v4.is_link_local()
                    || v4.is_multicast()
                    || v4.is_broadcast()
                    || v4.octets().first() == Some(&0)
            }
            IpAddr::V6(v6) => {
                v6.is_unicast_link_local() || v6.is_multicast() || v6.is_unspecified()
            }
        }
}

/// Whether an address lies in `address` or `address/bits`.
fn covers(range: &str, address: IpAddr) -> bool {
    let (base, bits) = match range.split_once('/') {
        Some((base, bits)) => (base, bits.parse::<u32>().ok()),
        None => (range, Some(128)),
    };
    let (Ok(base), Some(bits)) = (base.parse::<IpAddr>(), bits) else {
        return false;
    };
    match (base, address) {
        (IpAddr::V4(base), IpAddr::V4(address)) => {
            let mask = u32::MAX.checked_shl(32 - bits.min(32)).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V6(base), IpAddr::V6(address)) => {
            let mask = u128::MAX.checked_shl(128 - bits.min(128)).unwrap_or(0);
            base.to_bits() & mask == address.to_bits() & mask
        }
        (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn outcome(url: &str, allowed: &[&str]) -> bool {
        let allowed: Vec<_> = allowed.iter().map(|range| (*range).to_owned()).collect();
        check(&Target::parse(url).unwrap(), &allowed).await.is_ok()
    }

    #[tokio::test]
    async fn metadata_addresses_are_refused_unless_allowed() {
        let denied = [
            "http://169.254.169.254/latest",
            "redis://[fe80::1]:6379",
            "redis://[::ffff:169.254.169.254]:6379",
            "redis://0.0.0.0",
            "mongodb://127.0.0.1,224.0.0.1/",
            "redis://100.100.100.200",
        ];
        for url in denied {
            assert!(!outcome(url, &[]).await, "{url}");
        }
        for url in ["redis://127.0.0.1", "redis://10.0.0.5", "redis://[fd12::1]"] {
            assert!(outcome(url, &[]).await, "{url}");
        }
        assert!(outcome("redis://169.254.7.7", &["169.254.7.0/24"]).await);
        assert!(outcome("redis://169.254.7.7", &["169.254.7.7"]).await);
        assert!(
            !outcome(
                "redis://169.254.8.7",
                &["169.254.7.0/24", "x", "1.2.3.4/99"]
            )
            .await
        );
    }
}
