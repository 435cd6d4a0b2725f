//! The network of one pair: a bridge, on which this process and all clients sit, and a namespace with a cable to it for each of a, b and w.

use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::Result;

use crate::house::ip;

/// Of a pair's three processes; two data nodes come first.
pub const NAMES: [&str; 3] = ["a", "b", "w"];
pub const A: usize = 0;
pub const B: usize = 1;
pub const W: usize = 2;

/// A station that nobody is.
const NOWHERE: &str = "02:00:00:00:00:ee";

/// Several may be there at a time, each with a number of its own.
pub struct Net {
    slot: u8,
}

impl Net {
    pub fn lay(slot: u8) -> Result<Net> {
        let net = Net { slot };
        ip(&format!("link add br{slot} type bridge"))?;
        ip(&format!("link set br{slot} up"))?;
        ip(&format!("addr add 10.77.{slot}.1/24 dev br{slot}"))?;
        for at in 0..NAMES.len() {
            let (space, cable) = (net.space(at), net.cable(at));
            ip(&format!("netns add {space}"))?;
            ip(&format!("link add {cable} type veth peer name eth0 netns {space}"))?;
            ip(&format!("link set {cable} master br{slot} up"))?;
            ip(&format!("-n {space} link set lo up"))?;
            ip(&format!("-n {space} addr add {}/24 dev eth0", net.addr(at)))?;
            ip(&format!("-n {space} link set eth0 up"))?;
        }
        Ok(net)
    }

    pub fn addr(&self, at: usize) -> Ipv4Addr {
        Ipv4Addr::new(10, 77, self.slot, 2 + at as u8)
    }

    fn space(&self, at: usize) -> String {
        format!("s{}{}", self.slot, NAMES[at])
    }

    fn cable(&self, at: usize) -> String {
        format!("v{}{}", self.slot, NAMES[at])
    }

    /// To be completed with a program that then runs on that machine, as the very process that is started.
    pub fn on(&self, at: usize) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.space(at)]);
        command
    }

    /// From now on nothing that `from` sends arrives at `to`, and nobody is told. The other way is untouched.
    pub fn cut_one_way(&self, from: usize, to: usize) -> Result<()> {
        ip(&format!("-n {} neigh replace {} lladdr {NOWHERE} dev eth0 nud permanent", self.space(from), self.addr(to)))
    }

    pub fn cut(&self, one: usize, other: usize) -> Result<()> {
        self.cut_one_way(one, other)?;
        self.cut_one_way(other, one)
    }

    /// The cable is pulled out: no client reaches it either.
    pub fn unplug(&self, at: usize) -> Result<()> {
        ip(&format!("link set {} down", self.cable(at)))
    }

    /// All is well again.
    pub fn heal(&self) -> Result<()> {
        for from in 0..NAMES.len() {
            ip(&format!("link set {} up", self.cable(from)))?;
            for to in (0..NAMES.len()).filter(|to| *to != from) {
                // There may be none.
                let _ = ip(&format!("-n {} neigh del {} dev eth0", self.space(from), self.addr(to)));
            }
        }
        Ok(())
    }
}

impl Drop for Net {
    fn drop(&mut self) {
        for at in 0..NAMES.len() {
            // The kernel takes a namespace away in its own time; the cable's name is free at once.
            let _ = ip(&format!("link del {}", self.cable(at)));
            let _ = ip(&format!("netns del {}", self.space(at)));
        }
        let _ = ip(&format!("link del br{}", self.slot));
    }
}
