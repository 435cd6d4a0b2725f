//! Users and rules read again, and what that means for who is connected.

use crate::auth::{Config, ConfigError};
use crate::core::{Core, Shared};
use crate::outbox::Outbox;
use broker_api::Signal;

impl Core {
    /// Takes effect at once: for logins, and for what connected users do from now on. Who is no user any more is disconnected. The
    /// subscriptions of sessions are looked at again; consumers and queues stay. Nothing changes if the configuration is wrong.
    pub fn reload_users(&self, config: &Config) -> Result<(), ConfigError> {
        self.0.auth.reload(config)?;
        for link in self.0.links.iter() {
            self.0.refresh_principal(&link);
        }
        self.review_subscriptions();
        Ok(())
    }
}

impl Shared {
    /// Makes a connection's user what the newest table says. A login stores its user first and comes here then, so that one of the two, it
    /// or a reload, sees the other.
    pub fn refresh_principal(&self, link: &Outbox) {
        let Some(before) = link.principal.load_full() else { return };
        match self.auth.current(&before) {
            Some(now) if !std::sync::Arc::ptr_eq(&now, &before) => link.principal.store(Some(now)),
            Some(_) => {}
            None => link.signal(Signal::Kicked),
        }
    }
}
