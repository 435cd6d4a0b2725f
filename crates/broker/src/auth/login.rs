//! One login: from a step to an outcome, on the caller's thread where that is cheap and on the worker's where it is not.

use super::cache::Admission;
use super::config::{NAME_MAX, PASSWORD_MAX};
use super::keyed;
use super::principal::Principal;
use super::scram::{Algorithm, ClientFinal, ClientFirst, Exchange, Malformed};
use super::table::{ScramUser, Table};
use super::{Auth, Shared};
use base64::engine::general_purpose::STANDARD;
use base64::Engine;
use broker_api::{ConnectionInfo, Limit, LoginStep, Peer, Refusal};
use std::sync::Arc;
use std::time::Instant;

/// The SASL mechanisms of `LoginStep::Sasl`, the better one first.
pub const MECHANISMS: &[&str] = &["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"];

/// RFC 4422, appendix A: who the client is has been proven outside of the protocol. Only where it has been.
const EXTERNAL: &str = "EXTERNAL";

pub enum LoginOutcome {
    /// `last` is the mechanism's closing message to the client, empty if it has none.
    LoggedIn { principal: Arc<Principal>, last: Vec<u8> },
    /// Send this to the client and come back with `LoginStep::Continue`.
    Challenge(Vec<u8>),
    /// `LoginRefused` never says what was wrong. `LimitReached` means that it was not looked at: too many at once, or too many failures.
    Refused(Refusal),
}

impl std::fmt::Debug for LoginOutcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            LoginOutcome::LoggedIn { principal, .. } => write!(f, "LoggedIn {{ principal: {:?}, .. }}", principal.name()),
            LoginOutcome::Challenge(_) => f.write_str("Challenge(..)"),
            LoginOutcome::Refused(refusal) => write!(f, "Refused({refusal:?})"),
        }
    }
}

pub type Done = Box<dyn FnOnce(LoginOutcome) + Send>;

/// Where a connection's login stands. Kept by the connection, and used again when it authenticates anew.
#[derive(Default)]
pub struct LoginState(Phase);

#[derive(Default)]
enum Phase {
    #[default]
    Idle,
    /// The mechanism was named without a first message: SASL then wants an empty challenge (RFC 4422, 5.1).
    Named(Mechanism),
    Scram(Box<Scram>),
}

#[derive(Clone, Copy)]
enum Mechanism {
    Plain,
    Scram(Algorithm),
}

/// A SCRAM login between its two rounds.
struct Scram {
    exchange: Exchange,
    user: ScramUser,
    generation: u64,
}

fn refused() -> LoginOutcome {
    LoginOutcome::Refused(Refusal::LoginRefused)
}

fn busy() -> LoginOutcome {
    LoginOutcome::Refused(Refusal::LimitReached(Limit::Connections))
}

impl Auth {
    /// `done` is called once: before this returns where the answer is cheap (so hold no lock that it takes), else on the worker thread.
    pub fn login(&self, state: &mut LoginState, info: &ConnectionInfo, step: LoginStep, done: Done) {
        let phase = std::mem::take(&mut state.0);
        match (step, phase) {
            (LoginStep::Anonymous, _) => done(self.anonymous(info)),
            // Not a login: the link answers it.
            (LoginStep::Enter, _) => done(refused()),
            (LoginStep::Password { user, password }, _) => self.password(info, user, password, done),
            (LoginStep::Sasl { mechanism, initial }, _) if mechanism == EXTERNAL => done(self.external(info, &initial)),
            (LoginStep::Sasl { mechanism, initial }, _) => {
                let mechanism = match Algorithm::of_name(&mechanism) {
                    Some(algorithm) => Mechanism::Scram(algorithm),
                    None if mechanism == "PLAIN" => Mechanism::Plain,
                    None => return done(LoginOutcome::Refused(Refusal::BadMechanism)),
                };
                if initial.is_empty() {
                    state.0 = Phase::Named(mechanism);
                    return done(LoginOutcome::Challenge(Vec::new()));
                }
                self.first_message(state, info, mechanism, &initial, done);
            }
            (LoginStep::Continue { response }, Phase::Named(mechanism)) => self.first_message(state, info, mechanism, &response, done),
            (LoginStep::Continue { response }, Phase::Scram(scram)) => self.scram_final(info, *scram, &response, done),
            (LoginStep::Continue { .. }, Phase::Idle) => done(refused()),
        }
    }

    fn first_message(&self, state: &mut LoginState, info: &ConnectionInfo, mechanism: Mechanism, message: &[u8], done: Done) {
        match mechanism {
            Mechanism::Plain => match parse_plain(message) {
                Some((user, password)) => self.password(info, user, password, done),
                None => done(refused()),
            },
            Mechanism::Scram(algorithm) => match self.scram_first(info, algorithm, message) {
                Ok(scram) => {
                    let challenge = scram.exchange.server_first().as_bytes().to_vec();
                    state.0 = Phase::Scram(Box::new(scram));
                    done(LoginOutcome::Challenge(challenge));
                }
                Err(refusal) => done(LoginOutcome::Refused(refusal)),
            },
        }
    }

    /// On this machine, where the operator has not said otherwise.
    pub fn trusts_anonymous(&self, peer: &Peer) -> bool {
        self.shared.table.load().anonymous_on_loopback && peer.is_loopback()
    }

    fn anonymous(&self, info: &ConnectionInfo) -> LoginOutcome {
        if info.allow_anonymous || self.trusts_anonymous(&info.peer) {
            LoginOutcome::LoggedIn { principal: self.shared.table.load().anonymous.clone(), last: Vec::new() }
        } else {
            refused()
        }
    }

    /// `act_as`: whom the client asks to be; nobody but itself, or empty.
    fn external(&self, info: &ConnectionInfo, act_as: &[u8]) -> LoginOutcome {
        let Some(identity) = &info.identity else { return LoginOutcome::Refused(Refusal::BadMechanism) };
        let user = identity.user.as_str();
        let table = self.shared.table.load();
        let found = table.find(user, info.peer.is_loopback());
        if found.real && (act_as.is_empty() || act_as == user.as_bytes()) {
            return logged_in(&found.entry.principal, Vec::new());
        }
        note_origin(&table, user, info);
        tracing::info!(peer = %info.peer, user, "login refused: the client's certificate stands for no user of this name who may come from there");
        refused()
    }

    fn password(&self, info: &ConnectionInfo, user: String, password: Vec<u8>, done: Done) {
        if user.len() > NAME_MAX || password.is_empty() || password.len() > PASSWORD_MAX {
            return done(refused());
        }
        let table = self.shared.table.load();
        let from_loopback = info.peer.is_loopback();
        note_origin(&table, &user, info);
        if let Some(outcome) = self.shared.quick_password(&table, &user, &password, from_loopback) {
            return done(outcome);
        }
        self.slowly(info, done, move |shared| shared.slow_password(&user, &password, from_loopback));
    }

    fn scram_first(&self, info: &ConnectionInfo, algorithm: Algorithm, message: &[u8]) -> Result<Scram, Refusal> {
        let first = ClientFirst::parse(message).map_err(|why| {
            tracing::debug!(peer = %info.peer, ?why, "SCRAM: the first message is refused");
            match why {
                Malformed::ChannelBinding => Refusal::BadMechanism,
                Malformed::Syntax(_) => Refusal::LoginRefused,
            }
        })?;
        if first.user.len() > NAME_MAX || first.act_as.as_ref().is_some_and(|other| *other != first.user) {
            return Err(Refusal::LoginRefused);
        }
        let mut nonce = [0; 18];
        keyed::fill_random(&mut nonce).map_err(|error| {
            tracing::error!(%error, "no random numbers for a login");
            Refusal::LoginRefused
        })?;
        let table = self.shared.table.load();
        note_origin(&table, &first.user, info);
        let user = table.scram_user(algorithm, &first.user, info.peer.is_loopback());
        let exchange = Exchange::new(&first, &STANDARD.encode(nonce), &user.salt, user.iterations);
        Ok(Scram { exchange, user, generation: table.generation })
    }

    fn scram_final(&self, info: &ConnectionInfo, scram: Scram, message: &[u8], done: Done) {
        let last = match scram.exchange.receive(message) {
            Ok(last) => last,
            Err(why) => {
                tracing::debug!(peer = %info.peer, ?why, "SCRAM: the last message is refused");
                return done(refused());
            }
        };
        let table = self.shared.table.load();
        if table.generation != scram.generation {
            // The salt that the client was given may not be the user's any more.
            return done(refused());
        }
        match table.scram_verifier(&scram.user) {
            Some(verifier) => done(scram_outcome(last.verify(&verifier), &scram.user)),
            None => self.slowly(info, done, move |shared| shared.slow_scram(&scram, &last)),
        }
    }

    /// Has `work` done on the worker thread, unless too much is under way or has failed.
    fn slowly(&self, info: &ConnectionInfo, done: Done, work: impl FnOnce(&Shared) -> LoginOutcome + Send + 'static) {
        let Some(admission) = self.shared.failures.admit(&info.peer, Instant::now()) else {
            return done(busy());
        };
        let shared = self.shared.clone();
        let job = move |give_up: bool| {
            let outcome = if give_up { busy() } else { work(&shared) };
            shared.settle(admission, &outcome);
            done(outcome);
        };
        if let Err(job) = self.worker.submit(Box::new(job)) {
            job(true);
        }
    }
}

impl Shared {
    fn settle(&self, admission: Admission, outcome: &LoginOutcome) {
        let failed = matches!(outcome, LoginOutcome::Refused(Refusal::LoginRefused));
        self.failures.finish(admission, failed, Instant::now());
    }

    /// An answer that needs no slow hash.
    fn quick_password(&self, table: &Table, user: &str, password: &[u8], from_loopback: bool) -> Option<LoginOutcome> {
        let found = table.find(user, from_loopback);
        let right = if found.entry.is_slow() {
            let digest = self.key.digest(&[user.as_bytes(), password]);
            let (verified, refused) = (table.verified.contains(&digest), table.refused.contains(&digest));
            if !verified && !refused {
                return None;
            }
            verified
        } else {
            found.entry.verify(&self.key, password)
        };
        Some(if right && found.real { logged_in(&found.entry.principal, Vec::new()) } else { refused() })
    }

    fn slow_password(&self, user: &str, password: &[u8], from_loopback: bool) -> LoginOutcome {
        loop {
            let table = self.table.load_full();
            // A reload, or another connection with the same credentials, may have made it cheap since it was queued.
            if let Some(outcome) = self.quick_password(&table, user, password, from_loopback) {
                return outcome;
            }
            let found = table.find(user, from_loopback);
            let right = found.entry.verify(&self.key, password) && found.real;
            if self.table.load().generation != table.generation {
                continue;
            }
            let digest = self.key.digest(&[user.as_bytes(), password]);
            if right {
                table.verified.insert(digest);
                return logged_in(&found.entry.principal, Vec::new());
            }
            table.refused.insert(digest);
            return refused();
        }
    }

    fn slow_scram(&self, scram: &Scram, last: &ClientFinal) -> LoginOutcome {
        let table = self.table.load_full();
        if table.generation != scram.generation {
            return refused();
        }
        let verifier = table.derive_scram_verifier(&scram.user);
        scram_outcome(last.verify(&verifier), &scram.user)
    }
}

fn logged_in(principal: &Arc<Principal>, last: Vec<u8>) -> LoginOutcome {
    LoginOutcome::LoggedIn { principal: principal.clone(), last }
}

fn scram_outcome(server_final: Option<Vec<u8>>, user: &ScramUser) -> LoginOutcome {
    match (server_final, user.principal()) {
        (Some(last), Some(principal)) => logged_in(principal, last),
        _ => refused(),
    }
}

/// The client learns only that it is refused; whoever runs the broker should not have to guess.
fn note_origin(table: &Table, user: &str, info: &ConnectionInfo) {
    if table.is_local(user) && !info.peer.is_loopback() {
        tracing::info!(peer = %info.peer, user, "login refused: this user may log in from this machine only; configure users of your own");
    }
}

/// RFC 4616: `[act as] NUL user NUL password`. Acting as somebody else is not offered.
fn parse_plain(message: &[u8]) -> Option<(String, Vec<u8>)> {
    let mut fields = message.split(|&b| b == 0);
    let (act_as, user, password) = (fields.next()?, fields.next()?, fields.next()?);
    if fields.next().is_some() || user.is_empty() || !(act_as.is_empty() || act_as == user) {
        return None;
    }
    Some((String::from_utf8(user.to_vec()).ok()?, password.to_vec()))
}
