//! The bodies of the fuzz targets, as plain functions, so that an ordinary test can run them too.

use crate::proxy::{parse, Header, ProxyVersion, V1_MAX, V2_MAX};
use crate::tls::facts_of;

/// A header is whole at one length, whatever comes behind it, and something that goes on for ever is not waited for.
pub fn proxy_fuzz(data: &[u8]) {
    for version in [ProxyVersion::V1, ProxyVersion::V2, ProxyVersion::Any] {
        match parse(version, data) {
            Ok(Header::Whole { len, .. }) => {
                assert!(len <= data.len(), "{len} of {}", data.len());
                for end in 0..len {
                    assert_eq!(parse(version, &data[..end]), Ok(Header::Partial), "to {end} of {len}");
                }
                assert_eq!(parse(version, &data[..len]), parse(version, data));
            }
            Ok(Header::Partial) => assert!(data.len() < V1_MAX.max(V2_MAX), "{} bytes and no end", data.len()),
            Err(_) => {}
        }
    }
}

/// A client's certificate, before anybody has looked at who signed it. Its names may become a user's.
pub fn certificate_fuzz(data: &[u8]) {
    let Some(facts) = facts_of(data) else { return };
    for name in [facts.common_name(), facts.alternative_name()].into_iter().flatten() {
        assert!(!name.is_empty() && !name.contains('\0'), "{name:?}");
    }
    assert!(facts.subject().len() <= data.len().saturating_mul(4));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_committed_corpus() {
        for (target, body) in [("proxy_header", proxy_fuzz as fn(&[u8])), ("tls_certificate", certificate_fuzz)] {
            let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus").join(target);
            let mut count = 0;
            for entry in std::fs::read_dir(&folder).expect("a folder") {
                let data = std::fs::read(entry.expect("an entry").path()).expect("a file");
                body(&data);
                for at in 0..data.len() {
                    body(&data[..at]);
                    let mut changed = data.clone();
                    changed[at] ^= 0x81;
                    body(&changed);
                }
                count += 1;
            }
            assert!(count > 0, "{target}");
        }
    }
}
