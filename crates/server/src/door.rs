//! The HTTP door of this process (`http://` listeners): open from before the store is until the end, with a thread of its own, so that a busy
//! broker answers those who look after it. What it says comes from here; how it says it is [`admin`]'s.

use crate::config::Settings;
use crate::ha::Keeper;
use crate::listeners;
use admin::ha::{Digests, Log, Member, Pair, Promote, ReplaceVoter, Standby};
use admin::health::Ready;
use admin::{Account, BoxFuture, Credentials, Denied, Refusal};
use anyhow::{Context, Result};
use broker::auth::{Auth, Config, LoginOutcome, LoginState};
use broker_api::{ConnectionInfo, Elsewhere, LoginStep, Peer, Refusal as CoreRefusal};
use gateway::ListenUrl;
use journal::Lsn;
use replication::coordinator::{NodeName, Read, Register, Version};
use replication::{Role, Snapshot, Status};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tracing::info;

/// Who asks how things are is told what was known last rather than kept waiting.
const REGISTER_LIMIT: Duration = Duration::from_millis(500);
/// Until a primary that was asked for its place has handed over, and clients are served here.
const TAKEOVER_LIMIT: Duration = Duration::from_secs(15);

/// Where this process stands with its clients.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stage {
    Opening,
    /// As a node of a pair, it serves nobody unless it becomes primary.
    StandingBy,
    Serving,
    Stopping,
}

/// This process as a node of a pair.
pub struct Node {
    pub name: String,
    pub status: Arc<Status>,
    pub keeper: Keeper,
    /// The node's threads.
    pub threads: tokio::runtime::Handle,
}

impl Node {
    /// As it stands now, unless nobody answers for it soon.
    async fn register(&self) -> Option<(Version, Register)> {
        let coordinator = self.keeper.coordinator.clone();
        let read = self.threads.spawn(async move { coordinator.read().await });
        match tokio::time::timeout(REGISTER_LIMIT, read).await {
            Ok(Ok(Read::Known(register))) => register,
            _ => None,
        }
    }
}

/// Where whoever asked this node to give way waits. Empty where it was the standby.
pub struct Reply(Option<oneshot::Sender<Result<String, String>>>);

impl Reply {
    /// With the name of the new primary.
    pub fn answer(&mut self, handed_over: Result<String, String>) {
        if let Some(reply) = self.0.take() {
            let _ = reply.send(handed_over);
        }
    }
}

pub struct Door {
    wish: mpsc::Sender<Reply>,
    wishes: tokio::sync::Mutex<mpsc::Receiver<Reply>>,
    stage: Mutex<Stage>,
    /// There once the node has begun.
    node: OnceLock<Node>,
    of_pair: bool,
    /// Users of the files: the same that the core has, and there before the core is.
    auth: Auth,
}

impl Door {
    /// Opens it where there is an `http://` listener; answers with where it listens.
    pub fn open(settings: &Settings, users: &Config) -> Result<(Arc<Door>, Vec<ListenUrl>)> {
        let auth = Auth::new(users).context("the users of the configuration")?;
        let (wish, wishes) = mpsc::channel(1);
        let wishes = tokio::sync::Mutex::new(wishes);
        let door =
            Arc::new(Door { wish, wishes, stage: Mutex::new(Stage::Opening), node: OnceLock::new(), of_pair: settings.ha.is_some(), auth });
        let bound = listeners::bind_http(settings)?;
        let urls = bound.iter().map(|bound| bound.url.clone()).collect();
        let mut sockets = Vec::new();
        for bound in bound {
            let url = bound.url.clone();
            sockets.push(bound.into_tcp().with_context(|| format!("{url}: HTTP needs a TCP socket"))?);
        }
        if !sockets.is_empty() {
            door.clone().serve(sockets).context("cannot open the HTTP door")?;
        }
        Ok((door, urls))
    }

    fn serve(self: Arc<Door>, sockets: Vec<std::net::TcpListener>) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let task = async move {
            let mut listeners = tokio::task::JoinSet::new();
            for socket in sockets {
                match tokio::net::TcpListener::from_std(socket) {
                    Ok(socket) => drop(listeners.spawn(admin::serve(socket, self.clone(), crate::limits::of_http()))),
                    Err(error) => tracing::error!(%error, "an HTTP listener is lost"),
                }
            }
            while listeners.join_next().await.is_some() {}
        };
        // It ends with the process: whoever asks during the last moments is told that they are.
        std::thread::Builder::new().name("carrick-http".into()).spawn(move || runtime.block_on(task))?;
        Ok(())
    }

    pub fn enter(&self, stage: Stage) {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner) = stage;
    }

    pub fn is_of_pair(&self, node: Node) {
        let _ = self.node.set(node);
    }

    /// Users as the files say now.
    pub fn reload_users(&self, users: &Config) -> Result<()> {
        self.auth.reload(users).map_err(anyhow::Error::from)
    }

    /// Resolves when this primary is to give way to its standby.
    pub async fn wish(&self) -> Reply {
        let mut wishes = self.wishes.lock().await;
        loop {
            let asked_by_standby = async {
                match self.node.get() {
                    Some(node) => node.status.is_asked_for_place().await,
                    None => std::future::pending().await,
                }
            };
            let mut reply = tokio::select! {
                Some(reply) = wishes.recv() => reply,
                () = asked_by_standby => Reply(None),
            };
            // It may have got lost since it was looked at.
            if self.elsewhere().is_some() {
                return reply;
            }
            reply.answer(Err("no standby is in sync any more".into()));
        }
    }

    fn as_node(&self) -> Result<&Node, Refusal> {
        self.node.get().ok_or_else(|| match self.of_pair {
            true => Refusal::Conflict("this node has just been started: ask again in a moment".into()),
            false => Refusal::NotHere("this broker is alone: its configuration has no [ha]".into()),
        })
    }

    /// Where clients find the standby that takes over when this node, the primary, goes.
    pub fn elsewhere(&self) -> Option<Elsewhere> {
        let now = self.node.get()?.status.get();
        let (_, register) = now.register.filter(|_| now.role == Role::Primary)?;
        let other = register.in_sync.iter().find(|name| **name != register.primary)?;
        let addresses = register.members.get(other).map(|member| member.clients.clone()).unwrap_or_default();
        Some(Elsewhere { node: other.to_string(), addresses })
    }

    /// Where clients find the primary that this node follows.
    pub fn primary(&self) -> Option<Elsewhere> {
        let now = self.node.get()?.status.get();
        let (_, register) = now.register.filter(|_| now.role == Role::Following)?;
        let addresses = register.members.get(&register.primary).map(|member| member.clients.clone()).unwrap_or_default();
        Some(Elsewhere { node: register.primary.to_string(), addresses })
    }

    fn role(&self) -> &'static str {
        match (self.stage(), self.node.get()) {
            (Stage::Stopping, _) => "stopping",
            (_, Some(node)) => node.status.get().role.as_str(),
            (_, None) if self.of_pair => Role::Joining.as_str(),
            (_, None) => "alone",
        }
    }

    fn stage(&self) -> Stage {
        *self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl admin::House for Door {
    fn ready(&self) -> Ready {
        let stage = self.stage();
        let says = self.node.get().map(|node| node.status.get()).map(|now| now.says).filter(|says| !says.is_empty());
        let reason = match stage {
            Stage::Serving => None,
            Stage::Opening => Some("the store is being opened".to_owned()),
            Stage::StandingBy => Some(says.map_or_else(|| "this node stands by".to_owned(), |says| format!("this node stands by: {says}"))),
            Stage::Stopping => Some("the broker is going down".to_owned()),
        };
        Ready { ready: stage == Stage::Serving, role: self.role().to_owned(), reason }
    }

    fn pair(&self) -> BoxFuture<'_, Pair> {
        Box::pin(async {
            let Some(node) = self.node.get() else { return Pair { role: self.role().to_owned(), ..Pair::default() } };
            let register = node.register().await;
            let mut now = node.status.get();
            now.register = register.or(now.register);
            Pair {
                role: self.role().to_owned(),
                node: Some(node.name.clone()),
                coordinator: Some(node.keeper.coordinator.describe()),
                ..seen(&now)
            }
        })
    }

    fn switch_over(&self) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(self.give_way())
    }

    fn promote(&self, how: Promote) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async move {
            match how.epoch {
                Some(epoch) => self.be_promoted(epoch).await,
                None => self.take_over().await,
            }
        })
    }

    fn join(&self) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(self.take_copy())
    }

    fn replace_voter(&self, which: ReplaceVoter) -> BoxFuture<'_, Result<String, Refusal>> {
        Box::pin(async move {
            let node = self.as_node()?;
            let name: NodeName = which.voter.parse().map_err(|bad| Refusal::Conflict(format!("{bad}")))?;
            let voter = node
                .keeper
                .voter
                .clone()
                .ok_or_else(|| Refusal::Conflict("this pair has no voters: its coordinator is another one".into()))?;
            let asked = name.clone();
            let replaced = node.threads.spawn(async move { voter.replace_voter(&asked).await }).await;
            match replaced {
                Ok(Ok(())) => Ok(name.to_string()),
                Ok(Err(why)) => Err(Refusal::Failed(why)),
                Err(error) => Err(Refusal::Failed(error.to_string())),
            }
        })
    }

    fn login(&self, who: Credentials, from: SocketAddr) -> BoxFuture<'_, Result<Account, Denied>> {
        let info = ConnectionInfo {
            peer: Peer::Tcp(from),
            identity: None,
            protocol: "http",
            vhost: crate::wiring::default_vhost(),
            allow_anonymous: false,
        };
        Box::pin(async move {
            let (tell, told) = oneshot::channel();
            let done = Box::new(move |outcome| drop(tell.send(outcome)));
            let step = LoginStep::Password { user: who.user.clone(), password: who.password };
            self.auth.login(&mut LoginState::default(), &info, step, done);
            match told.await {
                Ok(LoginOutcome::LoggedIn { principal, .. }) => Ok(Account {
                    name: principal.name().to_owned(),
                    administrator: principal.administrator(),
                    monitoring: principal.tags().iter().any(|tag| tag == "monitoring"),
                }),
                Ok(LoginOutcome::Refused(CoreRefusal::LimitReached(_))) => Err(Denied::Busy),
                refused => {
                    info!(%from, user = %who.user, ?refused, "HTTP: login refused");
                    Err(Denied::Wrong)
                }
            }
        })
    }
}

impl Door {
    async fn give_way(&self) -> Result<String, Refusal> {
        let node = self.as_node()?;
        if self.stage() != Stage::Serving {
            let primary = node.status.get().register.map_or_else(|| "unknown".to_owned(), |(_, register)| register.primary.to_string());
            return Err(Refusal::Conflict(format!("{} is not primary (that is {primary})", node.name)));
        }
        if self.elsewhere().is_none() {
            return Err(Refusal::Conflict("no standby is in sync: whoever took over now would lack confirmed messages".into()));
        }
        let (reply, answered) = oneshot::channel();
        let sent = self.wish.try_send(Reply(Some(reply)));
        sent.map_err(|_| Refusal::Conflict("it is under way already".into()))?;
        match answered.await {
            Ok(Ok(name)) => Ok(name),
            Ok(Err(why)) => Err(Refusal::Failed(why)),
            Err(_) => Err(Refusal::Failed("this node is going down".into())),
        }
    }

    async fn take_over(&self) -> Result<String, Refusal> {
        let node = self.as_node()?;
        if node.status.get().role != Role::Following {
            let says = node.status.get();
            let by_hand = match node.keeper.coordinator.by_hand() {
                Some(_) => "; where no primary lives, promote it with the epoch that it says in ha status (--epoch N)",
                None => "",
            };
            return Err(Refusal::Conflict(format!("{} does not follow a primary: it is {}{by_hand}", node.name, says.role.as_str())));
        }
        let register = node.register().await;
        let in_sync = |(_, register): &(Version, Register)| register.in_sync.contains(node.name.as_str());
        if !register.as_ref().is_some_and(in_sync) {
            return Err(Refusal::Conflict(format!(
                "{} is not in sync, or nobody answers for the register: it may lack confirmed messages",
                node.name
            )));
        }
        let ask = || {
            if node.status.get().role == Role::Following {
                node.status.ask_for_place();
            }
        };
        self.until_serving(node, ask).await.ok_or_else(|| Refusal::Failed("the primary was asked and has not handed over yet".into()))
    }

    async fn take_copy(&self) -> Result<String, Refusal> {
        let node = self.as_node()?;
        let role = node.status.get().role;
        if role == Role::Primary {
            return Err(Refusal::Conflict(format!(
                "{} is primary: the other node takes a copy of its store, not the other way",
                node.name
            )));
        }
        let Some((_, register)) = node.register().await else {
            return Err(Refusal::Conflict(
                "nobody answers for the register, so it is not known who has everything that was confirmed".into(),
            ));
        };
        if !register.in_sync.iter().any(|name| name.as_str() != node.name) {
            return Err(Refusal::Conflict(format!(
                "{} is alone in sync: its store is the only one that has everything that was confirmed",
                node.name
            )));
        }
        if role != Role::Following {
            return Err(Refusal::Conflict(format!(
                "{} does not follow a primary, so there is none to copy from: it is {}",
                node.name,
                role.as_str()
            )));
        }
        node.status.ask_for_copy();
        Ok(register.primary.to_string())
    }

    /// Its name, when this node serves.
    async fn until_serving(&self, node: &Node, meanwhile: impl Fn()) -> Option<String> {
        let begun = std::time::Instant::now();
        while begun.elapsed() < TAKEOVER_LIMIT {
            if self.stage() == Stage::Serving {
                return Some(node.name.clone());
            }
            meanwhile();
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        None
    }

    /// An operator's word, where he is the coordinator.
    async fn be_promoted(&self, epoch: u64) -> Result<String, Refusal> {
        let node = self.as_node()?;
        if node.keeper.coordinator.by_hand().is_none() {
            return Err(Refusal::Conflict(
                "an epoch is said only where an operator decides (coordinator = \"manual\"); leave it out".into(),
            ));
        }
        match node.status.get().role {
            Role::Primary => return Err(Refusal::Conflict(format!("{} is primary already", node.name))),
            Role::Following => {
                let why =
                    format!("{} follows a primary that lives: right would be a switchover, or to promote it without an epoch", node.name);
                return Err(Refusal::Conflict(why));
            }
            Role::Joining | Role::Promoting => {}
        }
        let coordinator = node.keeper.coordinator.clone();
        let promoted = node.threads.spawn(async move {
            match coordinator.by_hand() {
                Some(manual) => manual.promote(epoch).await,
                None => Ok(()),
            }
        });
        promoted.await.map_err(|error| Refusal::Failed(error.to_string()))?.map_err(Refusal::Conflict)?;
        let says = || Refusal::Failed(format!("it does not serve: {}", node.status.get().says));
        self.until_serving(node, || {}).await.ok_or_else(says)
    }
}

/// What the node knows, in the door's words.
fn seen(now: &Snapshot) -> Pair {
    let (end, done) = (now.log.0 .0, now.log.1 .0);
    let register = now.register.as_ref().map(|(_, register)| register);
    let standby = |(name, synced, redone): &(NodeName, Lsn, Lsn)| Standby {
        node: name.to_string(),
        in_sync: register.is_some_and(|register| register.in_sync.contains(name)),
        synced: synced.0,
        redone: redone.0,
        lag_bytes: end.saturating_sub(synced.0),
    };
    let standbys = now.standbys.iter().filter(|_| now.role == Role::Primary);
    let member = |(name, member): (&NodeName, &replication::coordinator::Member)| Member {
        node: name.to_string(),
        peer: member.peer.clone(),
        clients: member.clients.clone(),
    };
    Pair {
        epoch: register.map(|register| register.epoch),
        primary: register.map(|register| register.primary.to_string()),
        in_sync: register.into_iter().flat_map(|register| &register.in_sync).map(ToString::to_string).collect(),
        members: register.into_iter().flat_map(|register| &register.members).map(member).collect(),
        log: register.map(|_| Log { end, done }),
        standbys: standbys.map(standby).collect(),
        digests: (now.role != Role::Primary).then(|| Digests { compared: now.digests, differed: now.differed, last: now.differs.clone() }),
        says: (!now.says.is_empty()).then(|| now.says.clone()),
        ..Pair::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Serve;

    #[tokio::test]
    async fn a_node_of_a_pair_never_says_that_it_is_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let config = dir.path().join("carrick.toml");
        let pair =
            "[ha]\nnode = 'a'\nlisten = '127.0.0.1:0'\npeers = { b = 'h:1' }\nwitness = { w = 'h:2' }\nsecret = 'sixteen letters!'\n";
        for (text, role) in [("", "alone"), (pair, "joining")] {
            std::fs::write(&config, format!("listen = ['http://127.0.0.1:0']\n{text}")).expect("written");
            let settings = Settings::load(&Serve { config: Some(config.clone()), ..Serve::default() }).expect(text);
            let (door, _) = Door::open(&settings, &Config::default()).expect("it opens");
            assert_eq!(admin::House::ready(&*door).role, role, "{text}");
            assert_eq!(admin::House::pair(&*door).await.role, role, "{text}");
        }
    }
}
