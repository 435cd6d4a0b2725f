//! A certificate authority in a folder that goes away.

use gateway::TlsSettings;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};

pub struct Pki {
    dir: tempfile::TempDir,
    ca: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Pki {
    /// With `ca.pem`, `server.pem` (for localhost) and `server.key`.
    pub fn new() -> Pki {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "a test's CA");
        let root = params.self_signed(&key).expect("signed");
        let dir = tempfile::tempdir().expect("a folder");
        std::fs::write(dir.path().join("ca.pem"), root.pem()).expect("written");
        let pki = Pki { dir, root: root.der().clone(), ca: Issuer::new(params, key) };
        pki.write_server("localhost", 30);
        pki
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn settings(&self) -> TlsSettings {
        TlsSettings { certificate: Some(self.path("server.pem")), private_key: Some(self.path("server.key")), ..TlsSettings::default() }
    }

    pub fn write_server(&self, host: &str, days: i64) {
        self.write_leaf("server", host, -1, days);
    }

    /// Valid between these days from now.
    pub fn write_leaf(&self, name: &str, host: &str, from: i64, to: i64) {
        let (certificate, key) = self.leaf(name, host, from, to);
        std::fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
        std::fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
    }

    fn leaf(&self, name: &str, host: &str, from: i64, to: i64) -> (rcgen::Certificate, KeyPair) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new([host.to_owned()]).expect("a name");
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let day = |days: i64| {
            let distance = Duration::from_secs(days.unsigned_abs() * 86_400 + 60);
            let now = SystemTime::now();
            if days < 0 { now - distance } else { now + distance }.into()
        };
        (params.not_before, params.not_after) = (day(from), day(to));
        (params.signed_by(&key, &self.ca).expect("signed"), key)
    }

    /// A client that trusts this CA.
    pub fn client(&self, versions: &[&'static SupportedProtocolVersion]) -> ClientConfig {
        self.builder(versions).with_no_client_auth()
    }

    /// The same with a certificate that `issuer` has signed.
    pub fn client_with(&self, versions: &[&'static SupportedProtocolVersion], issuer: &Pki, name: &str) -> ClientConfig {
        let (certificate, key) = issuer.leaf(name, name, -1, 30);
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        self.builder(versions).with_client_auth_cert(vec![certificate.der().clone()], key).expect("a pair")
    }

    fn builder(
        &self,
        versions: &[&'static SupportedProtocolVersion],
    ) -> tokio_rustls::rustls::ConfigBuilder<ClientConfig, tokio_rustls::rustls::client::WantsClientCert> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).expect("a root");
        let provider = Arc::new(tokio_rustls::rustls::crypto::ring::default_provider());
        ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).expect("versions").with_root_certificates(roots)
    }
}
