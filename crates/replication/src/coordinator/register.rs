//! What stands in the register, and what may follow what.

use std::borrow::Borrow;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{de, Deserialize, Deserializer, Serialize, Serializer};
use thiserror::Error;

/// Nodes that a register can name. Two data nodes, and room for replacing them one at a time.
const MEMBERS_MAX: usize = 8;
/// Addresses that one node can give its clients.
const CLIENTS_MAX: usize = 32;
/// Bytes of one address.
const ADDRESS_MAX: usize = 512;

/// A node's name in its cluster: 1 to 64 of `a-z`, `0-9` and `-`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeName(Arc<str>);

#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{0:?} is no name of a node: 1 to 64 of a-z, 0-9 and '-'")]
pub struct BadName(String);

impl NodeName {
    pub const LEN_MAX: usize = 64;

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for NodeName {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        let fits = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.is_empty() || text.len() > Self::LEN_MAX || !text.bytes().all(fits) {
            return Err(BadName(text.chars().take(80).collect()));
        }
        Ok(Self(text.into()))
    }
}

impl fmt::Display for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for NodeName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Borrow<str> for NodeName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl Serialize for NodeName {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for NodeName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A node as the register knows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// Of the process's life: another one after each restart.
    #[serde(with = "super::hex")]
    pub boot: u128,
    /// Where the other node's link finds it.
    pub peer: String,
    /// Where clients find it, in the order in which they are told.
    pub clients: Vec<String>,
}

/// Who is primary, and whose log holds everything that was confirmed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Register {
    pub epoch: u64,
    pub primary: NodeName,
    /// Those whose sync a confirm of this epoch waits for: any of them can take over.
    pub in_sync: BTreeSet<NodeName>,
    /// Which cluster this is: a node of another one has nothing to say here.
    #[serde(with = "super::hex")]
    pub cluster: u128,
    pub members: BTreeMap<NodeName, Member>,
    /// Of those in sync: confirms waited for what these had received, not for what they had synced. Such a one can take over only in the life in
    /// which it came in sync, since another one lacks what was in memory.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub by_memory: BTreeSet<NodeName>,
}

/// Why one register may not follow another.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Error)]
pub enum Refused {
    #[error("it is of another cluster")]
    Cluster,
    #[error("the in-sync set is without the primary {0}")]
    PrimaryNotInSync(NodeName),
    #[error("{0} was not in sync, so confirmed messages may be missing on it")]
    NotEligible(NodeName),
    #[error("epoch {new} cannot follow {old}")]
    Epoch { old: u64, new: u64 },
    #[error("the primary changes from {old} to {new} without a new epoch")]
    PrimaryInEpoch { old: NodeName, new: NodeName },
    #[error("{0} was restarted, which takes a new epoch")]
    BootInEpoch(NodeName),
    #[error("{0} is in sync and not a member")]
    NoMember(NodeName),
    #[error("no operator has promoted {0} in epoch {1}")]
    NotPromoted(NodeName, u64),
    #[error("it is too large: {0:?}")]
    TooLarge(TooLarge),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum TooLarge {
    Members,
    Clients,
    Address,
}

impl Register {
    /// Whether `new` may be written where `old` stands. Every coordinator asks this where the register is kept, not where the wish comes from.
    pub fn may_follow(old: Option<&Register>, new: &Register) -> Result<(), Refused> {
        new.is_sound()?;
        let Some(old) = old else { return Ok(()) };
        if new.cluster != old.cluster {
            return Err(Refused::Cluster);
        }
        if new.epoch != old.epoch && Some(new.epoch) != old.epoch.checked_add(1) {
            return Err(Refused::Epoch { old: old.epoch, new: new.epoch });
        }
        if !old.in_sync.contains(&new.primary) {
            return Err(Refused::NotEligible(new.primary.clone()));
        }
        if new.epoch == old.epoch {
            if new.primary != old.primary {
                return Err(Refused::PrimaryInEpoch { old: old.primary.clone(), new: new.primary.clone() });
            }
            // Whoever was restarted may have lost what it promised in memory; so its log has to show where a new reign begins.
            let boot = |register: &Register| register.members.get(&register.primary).map(|member| member.boot);
            if boot(new) != boot(old) {
                return Err(Refused::BootInEpoch(new.primary.clone()));
            }
        }
        Ok(())
    }

    /// What holds for a register by itself.
    fn is_sound(&self) -> Result<(), Refused> {
        if !self.in_sync.contains(&self.primary) {
            return Err(Refused::PrimaryNotInSync(self.primary.clone()));
        }
        if let Some(name) = self.in_sync.iter().find(|name| !self.members.contains_key(*name)) {
            return Err(Refused::NoMember(name.clone()));
        }
        if self.members.len() > MEMBERS_MAX {
            return Err(Refused::TooLarge(TooLarge::Members));
        }
        for member in self.members.values() {
            if member.clients.len() > CLIENTS_MAX {
                return Err(Refused::TooLarge(TooLarge::Clients));
            }
            if member.peer.len() > ADDRESS_MAX || member.clients.iter().any(|address| address.len() > ADDRESS_MAX) {
                return Err(Refused::TooLarge(TooLarge::Address));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(text: &str) -> NodeName {
        text.parse().unwrap()
    }

    fn register(epoch: u64, primary: &str, in_sync: &[&str]) -> Register {
        let member = |boot| Member { boot, peer: "127.0.0.1:7000".into(), clients: vec!["127.0.0.1:1883".into()] };
        Register {
            epoch,
            primary: name(primary),
            in_sync: in_sync.iter().map(|text| name(text)).collect(),
            by_memory: BTreeSet::new(),
            cluster: 7,
            members: BTreeMap::from([(name("a"), member(1)), (name("b"), member(2))]),
        }
    }

    fn verdict(old: &Register, new: &Register) -> Result<(), Refused> {
        Register::may_follow(Some(old), new)
    }

    #[test]
    fn names() {
        for good in ["a", "node-1", &"x".repeat(64)] {
            assert_eq!(good.parse::<NodeName>().unwrap().as_str(), good);
        }
        for bad in ["", "A", "a b", "a.b", "ä", "a\n", &"x".repeat(65)] {
            assert!(bad.parse::<NodeName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn the_first_register_may_have_any_epoch() {
        assert_eq!(Register::may_follow(None, &register(41, "a", &["a"])), Ok(()));
        assert_eq!(Register::may_follow(None, &register(0, "a", &["b"])), Err(Refused::PrimaryNotInSync(name("a"))));
        assert_eq!(Register::may_follow(None, &register(0, "a", &[])), Err(Refused::PrimaryNotInSync(name("a"))));
    }

    #[test]
    fn the_in_sync_set_shrinks_and_grows_within_an_epoch() {
        assert_eq!(verdict(&register(5, "a", &["a", "b"]), &register(5, "a", &["a"])), Ok(()));
        assert_eq!(verdict(&register(5, "a", &["a"]), &register(5, "a", &["a", "b"])), Ok(()));
        assert_eq!(verdict(&register(5, "a", &["a", "b"]), &register(5, "a", &["b"])), Err(Refused::PrimaryNotInSync(name("a"))));
        assert_eq!(verdict(&register(5, "a", &["a"]), &register(5, "a", &["a", "c"])), Err(Refused::NoMember(name("c"))));
    }

    #[test]
    fn only_who_was_in_sync_takes_over_and_only_in_the_next_epoch() {
        let both = register(5, "a", &["a", "b"]);
        assert_eq!(verdict(&both, &register(6, "b", &["b"])), Ok(()));
        assert_eq!(verdict(&both, &register(5, "b", &["b"])), Err(Refused::PrimaryInEpoch { old: name("a"), new: name("b") }));
        assert_eq!(verdict(&both, &register(7, "b", &["b"])), Err(Refused::Epoch { old: 5, new: 7 }));
        assert_eq!(verdict(&both, &register(4, "a", &["a"])), Err(Refused::Epoch { old: 5, new: 4 }));
        assert_eq!(verdict(&register(5, "a", &["a"]), &register(6, "b", &["b"])), Err(Refused::NotEligible(name("b"))));
        // Growing the set and taking over cannot be one step.
        assert_eq!(verdict(&register(5, "a", &["a"]), &register(6, "b", &["a", "b"])), Err(Refused::NotEligible(name("b"))));
        let end = register(u64::MAX, "a", &["a", "b"]);
        assert_eq!(verdict(&end, &register(0, "b", &["b"])), Err(Refused::Epoch { old: u64::MAX, new: 0 }));
    }

    #[test]
    fn a_restart_of_the_primary_takes_a_new_epoch_and_one_of_the_standby_does_not() {
        let old = register(5, "a", &["a", "b"]);
        let mut new = old.clone();
        new.members.get_mut("a").unwrap().boot = 9;
        assert_eq!(verdict(&old, &new), Err(Refused::BootInEpoch(name("a"))));
        new.epoch = 6;
        assert_eq!(verdict(&old, &new), Ok(()));
        let mut standby = old.clone();
        standby.members.get_mut("b").unwrap().boot = 9;
        assert_eq!(verdict(&old, &standby), Ok(()));
    }

    #[test]
    fn another_cluster_and_what_is_too_large_stay_out() {
        let old = register(5, "a", &["a", "b"]);
        let mut other = old.clone();
        other.cluster = 8;
        assert_eq!(verdict(&old, &other), Err(Refused::Cluster));
        let mut large = old.clone();
        large.members.get_mut("b").unwrap().clients = vec![String::new(); 33];
        assert_eq!(verdict(&old, &large), Err(Refused::TooLarge(TooLarge::Clients)));
        let mut large = old.clone();
        large.members.get_mut("b").unwrap().peer = "x".repeat(513);
        assert_eq!(verdict(&old, &large), Err(Refused::TooLarge(TooLarge::Address)));
        let mut large = old.clone();
        let member = large.members[&name("a")].clone();
        large.members.extend((0..8).map(|n| (name(&format!("n{n}")), member.clone())));
        assert_eq!(verdict(&old, &large), Err(Refused::TooLarge(TooLarge::Members)));
    }
}
