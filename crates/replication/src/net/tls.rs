//! Certificates in both directions. A node's name stands in its certificate as a DNS name; who may have signed is one file for the whole cluster.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::rustls::client::verify_server_name;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::server::{ParsedCertificate, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{client, server, TlsAcceptor, TlsConnector};

use super::NetError;
use crate::coordinator::NodeName;

/// PEM files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// This node's certificate first, then those between it and `ca`.
    pub certificate: PathBuf,
    pub private_key: PathBuf,
    /// Who may have signed the certificates of nodes.
    pub ca: PathBuf,
}

#[derive(Debug, Error)]
#[error("{}: {why}", path.display())]
pub struct TlsError {
    pub path: PathBuf,
    pub why: String,
}

#[derive(Clone)]
pub(super) struct Tls {
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
}

/// What the other side has shown.
pub(super) struct Shown(CertificateDer<'static>);

impl Tls {
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let certificates = certificates(&files.certificate)?;
        let key = || PrivateKeyDer::from_pem_file(&files.private_key).map_err(|error| at(&files.private_key, error));
        let mut roots = RootCertStore::empty();
        for root in self::certificates(&files.ca)? {
            roots.add(root).map_err(|error| at(&files.ca, error))?;
        }
        let roots = Arc::new(roots);
        let provider = Arc::new(ring::default_provider());
        let versions = [&rustls::version::TLS13];
        let bad = |error: rustls::Error| at(&files.certificate, error);

        let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
        let verifier = verifier.build().map_err(|error| at(&files.ca, error))?;
        let server = ServerConfig::builder_with_provider(provider.clone()).with_protocol_versions(&versions).map_err(bad)?;
        let server = server.with_client_cert_verifier(verifier).with_single_cert(certificates.clone(), key()?).map_err(bad)?;
        let client = ClientConfig::builder_with_provider(provider).with_protocol_versions(&versions).map_err(bad)?;
        let client = client.with_root_certificates(roots).with_client_auth_cert(certificates, key()?).map_err(bad)?;
        Ok(Self { client: client.into(), server: server.into() })
    }

    pub(super) async fn connect(&self, stream: TcpStream, to: &NodeName) -> Result<client::TlsStream<TcpStream>, NetError> {
        let name = server_name(to)?;
        TlsConnector::from(self.client.clone()).connect(name, stream).await.map_err(explain)
    }

    pub(super) async fn accept(&self, stream: TcpStream) -> Result<(server::TlsStream<TcpStream>, Shown), NetError> {
        let stream = TlsAcceptor::from(self.server.clone()).accept(stream).await.map_err(explain)?;
        let shown = stream.get_ref().1.peer_certificates().and_then(|shown| shown.first());
        let shown = shown.ok_or_else(|| NetError::Tls("it has shown no certificate".into()))?.clone().into_owned();
        Ok((stream, Shown(shown)))
    }
}

impl Shown {
    pub(super) fn is_for(&self, name: &NodeName) -> Result<(), NetError> {
        let parsed = ParsedCertificate::try_from(&self.0).map_err(|error| NetError::Tls(error.to_string()))?;
        verify_server_name(&parsed, &server_name(name)?)
            .map_err(|error| NetError::Tls(format!("its certificate is not for {name}: {error}")))
    }
}

fn server_name(name: &NodeName) -> Result<ServerName<'static>, NetError> {
    ServerName::try_from(name.as_str().to_owned()).map_err(|_| NetError::Tls(format!("{name} cannot stand in a certificate as a DNS name")))
}

/// What rustls has to say comes inside an I/O error; a connection that broke is one.
fn explain(error: std::io::Error) -> NetError {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
        Some(error) => NetError::Tls(error.to_string()),
        None => NetError::Io(error),
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path).map_err(|error| at(path, error))?.collect();
    let found = found.map_err(|error| at(path, error))?;
    match found.is_empty() {
        true => Err(at(path, "there is no certificate in it")),
        false => Ok(found),
    }
}

fn at(path: &Path, why: impl ToString) -> TlsError {
    TlsError { path: path.to_owned(), why: why.to_string() }
}
