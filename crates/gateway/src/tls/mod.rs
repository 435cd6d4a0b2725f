//! TLS on a listener: certificates from files, handshakes, and who a client's certificate says it is.
//!
//! * [`TlsSettings`] is what an operator writes; `load` makes a rustls configuration of it, or an error that names the file.
//! * [`Tls`] holds the current one. A reload swaps it: handshakes that begin later see the new files, connections that stand stay as they are.
//! * `layer` is the stream above the socket; `x509` reads the few fields of a certificate that we want to know.

mod layer;
mod load;
mod settings;
mod x509;

pub use load::TlsError;
pub use settings::{ClientAuth, MinVersion, TlsSettings, UserFrom};
pub(crate) use x509::read as facts_of;

use crate::Transport;
use arc_swap::ArcSwap;
use broker_api::Identity;
use std::io;
use std::sync::Arc;
use tokio::time::Instant;
use tokio_rustls::rustls::{self, ServerConnection};
use tokio_rustls::TlsAcceptor;
use tracing::{info, warn};

/// Of what was encrypted and the socket did not take: then the driver has to wait.
const UNSENT_MAX: usize = 64 * 1024;

/// What a TLS listener shows its clients, and what it asks of them.
pub struct Tls {
    settings: TlsSettings,
    current: ArcSwap<rustls::ServerConfig>,
}

impl Tls {
    pub fn load(settings: TlsSettings) -> Result<Tls, TlsError> {
        let config = load::server_config(&settings)?;
        Ok(Tls { settings, current: ArcSwap::from_pointee(config) })
    }

    /// Reads the files again. With an error nothing has changed. What was agreed with clients for resuming a session goes with the old files.
    pub fn reload(&self) -> Result<(), TlsError> {
        let config = load::server_config(&self.settings)?;
        self.current.store(config.into());
        Ok(())
    }

    pub fn settings(&self) -> &TlsSettings {
        &self.settings
    }

    pub(crate) async fn accept_until(&self, until: Instant, stream: Transport) -> io::Result<(Transport, Option<Arc<Identity>>)> {
        let late = || io::Error::new(io::ErrorKind::TimedOut, "the handshake was not done in time (handshake_timeout_secs)");
        tokio::time::timeout_at(until, self.accept(stream)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn accept(&self, stream: Transport) -> io::Result<(Transport, Option<Arc<Identity>>)> {
        let acceptor = TlsAcceptor::from(self.current.load_full());
        let stream = acceptor.accept_with(stream, |session| session.set_buffer_limit(Some(UNSENT_MAX))).await.map_err(explain)?;
        let (stream, session) = stream.into_inner();
        let identity = self.identity(&session);
        Ok((Transport::layered(layer::TlsStream::new(stream, session)), identity))
    }

    /// The certificate has been verified by the handshake; what it says is believed.
    fn identity(&self, session: &ServerConnection) -> Option<Arc<Identity>> {
        let from = self.settings.user_from?;
        let certificate = session.peer_certificates()?.first()?;
        let facts = x509::read(certificate)?;
        let user = match from {
            UserFrom::Cn => facts.common_name(),
            UserFrom::San => facts.alternative_name(),
        };
        if user.is_none() {
            info!(subject = %facts.subject(), ?from, "the client's certificate has no such name, or not just one: it stands for no user");
        }
        user.map(|user| Arc::new(Identity { user: user.to_owned() }))
    }
}

/// The two errors that operators meet most, in words.
fn explain(error: io::Error) -> io::Error {
    let of_tls = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    let text = match of_tls {
        Some(rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType)) => {
            "the client does not speak TLS: it was pointed at the wrong port, or not told to use TLS".to_owned()
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            format!("the client broke it off: {alert:?} (often: it does not trust the certificate)")
        }
        Some(rustls::Error::NoCertificatesPresented) => "the client gave no certificate, and client_auth is \"require\"".to_owned(),
        _ => return error,
    };
    io::Error::new(error.kind(), text)
}

/// Days before its end from which a certificate is warned of.
const WARN_DAYS: i64 = 14;

fn tell_of(path: &std::path::Path, facts: &x509::Facts, now: i64) {
    let days = (facts.not_after - now) / 86_400;
    if days < WARN_DAYS {
        warn!(certificate = %path.display(), subject = %facts.subject(), days_left = days, "this certificate expires soon: replace the file and send SIGHUP");
    } else {
        info!(certificate = %path.display(), subject = %facts.subject(), days_left = days, "certificate read");
    }
}
