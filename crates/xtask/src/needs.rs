//! Tools from outside the workspace: looked for first, then fetched where we may.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::context::Context;
use crate::process;

/// Something a suite cannot run without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    MosquittoClients,
    Mosquitto,
    RabbitMq,
    ActiveMq,
    RubyStomp,
    NetStomp,
    AmqpTools,
    PhpAmqplib,
    Python,
    Npm,
    /// A browser that runs without a screen.
    Chromium,
    Java,
    Maven,
    Go,
    Etcd,
    /// `ip`, for machines of their own on one machine.
    Iproute,
    /// For faults that only root can inject.
    Root,
}

impl Need {
    /// Why the suite cannot run here, if so; may install a Debian package first.
    pub fn ensure(self, context: &Context) -> Result<(), String> {
        if self.present() {
            return Ok(());
        }
        let Some(packages) = self.debian_packages() else { return Err(self.complaint()) };
        if !may_install() {
            return Err(format!("{}; on Debian as root the package would be installed: {}", self.complaint(), packages.join(" ")));
        }
        println!("installing {} for {self:?}", packages.join(" "));
        let log = context.dir("logs").map_err(|e| e.to_string())?.join("apt.log");
        let mut last = "apt-get failed".to_string();
        // A fresh machine has no package lists; a kept one has, and then the first try is enough.
        for update_first in [false, true] {
            if update_first {
                let _ = process::run(apt(&["update"]), &log, Duration::from_secs(300));
            }
            let mut args = vec!["install", "-y", "--no-install-recommends"];
            args.extend(packages);
            match process::run(apt(&args), &log, Duration::from_secs(600)) {
                Ok(outcome) if outcome.success && self.present() => return Ok(()),
                Ok(outcome) => last = format!("apt-get install {}{}", packages.join(" "), outcome.why()),
                Err(error) => last = format!("{error:#}"),
            }
        }
        Err(format!("{}; {last} (log: {})", self.complaint(), log.display()))
    }

    fn present(self) -> bool {
        match self {
            Need::MosquittoClients => have("mosquitto_pub") && have("mosquitto_sub"),
            Need::Mosquitto => mosquitto_broker().is_some(),
            Need::RabbitMq => rabbitmq_broker().is_some(),
            Need::ActiveMq => have("java") && activemq_broker().is_some(),
            Need::RubyStomp => have("ruby") && process::probe("ruby", &["-e", "require 'stomp'"]).is_some(),
            Need::NetStomp => have("perl") && process::probe("perl", &["-MNet::Stomp", "-e", "1"]).is_some(),
            Need::AmqpTools => AMQP_TOOLS.iter().all(|program| have(program)),
            Need::PhpAmqplib => have("php") && Path::new(PHP_AMQPLIB).is_file(),
            Need::Python => python().is_some(),
            Need::Npm => have("node") && npm().is_some(),
            Need::Chromium => have("chromium"),
            Need::Java => have("java") && have("javac"),
            Need::Maven => have("mvn"),
            Need::Go => go_is_new_enough(),
            Need::Etcd => have("etcd"),
            Need::Iproute => have("ip") || Path::new("/usr/sbin/ip").is_file(),
            Need::Root => rustix::process::geteuid().is_root(),
        }
    }

    fn debian_packages(self) -> Option<&'static [&'static str]> {
        match self {
            Need::MosquittoClients => Some(&["mosquitto-clients"]),
            Need::Mosquitto => Some(&["mosquitto"]),
            Need::RabbitMq => Some(&["rabbitmq-server"]),
            Need::ActiveMq => Some(&["activemq"]),
            Need::RubyStomp => Some(&["ruby", "ruby-stomp"]),
            Need::NetStomp => Some(&["perl", "libnet-stomp-perl"]),
            Need::AmqpTools => Some(&["amqp-tools"]),
            Need::PhpAmqplib => Some(&["php-cli", "php-bcmath", "php-amqplib"]),
            Need::Python => Some(&["python3", "python3-venv"]),
            Need::Npm => Some(&["nodejs", "npm"]),
            Need::Chromium => Some(&["chromium"]),
            Need::Java => Some(&["default-jdk-headless"]),
            Need::Maven => Some(&["maven"]),
            Need::Go => Some(&["golang-go"]),
            Need::Etcd => Some(&["etcd-server"]),
            Need::Iproute => Some(&["iproute2"]),
            Need::Root => None,
        }
    }

    fn complaint(self) -> String {
        match self {
            Need::MosquittoClients => "needs mosquitto_pub and mosquitto_sub".into(),
            Need::Mosquitto => "needs mosquitto".into(),
            Need::RabbitMq => "needs rabbitmq-server".into(),
            Need::ActiveMq => "needs activemq and java".into(),
            Need::RubyStomp => "needs ruby and its stomp gem".into(),
            Need::NetStomp => "needs perl and Net::Stomp".into(),
            Need::AmqpTools => format!("needs {}", AMQP_TOOLS.join(", ")),
            Need::PhpAmqplib => format!("needs php and {PHP_AMQPLIB}"),
            Need::Python => "needs python3, 3.9 or newer, with its venv module".into(),
            Need::Npm => "needs node and npm".into(),
            Need::Chromium => "needs chromium".into(),
            Need::Java => "needs a JDK (java and javac)".into(),
            Need::Maven => "needs mvn".into(),
            Need::Go => format!("needs go 1.{GO_MINOR} or newer"),
            Need::Etcd => "needs etcd".into(),
            Need::Iproute => "needs ip, of iproute2".into(),
            Need::Root => "needs root".into(),
        }
    }
}

fn apt(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command
}

fn may_install() -> bool {
    rustix::process::geteuid().is_root() && Path::new("/etc/debian_version").exists() && have("apt-get")
}

/// Where a program lies on the search path.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|candidate| candidate.is_file())
}

fn have(program: &str) -> bool {
    find(program).is_some()
}

/// Debian puts the broker in /usr/sbin, which is not on every user's path.
pub fn mosquitto_broker() -> Option<PathBuf> {
    find("mosquitto").or_else(|| Some(PathBuf::from("/usr/sbin/mosquitto")).filter(|path| path.is_file()))
}

/// The script itself, not the one on the path, which would drop to a user of its own.
pub fn rabbitmq_broker() -> Option<PathBuf> {
    Some(PathBuf::from("/usr/lib/rabbitmq/bin/rabbitmq-server")).filter(|path| path.is_file())
}

/// The launcher of its libraries, without the scripts that would drop to a user of its own.
pub fn activemq_broker() -> Option<PathBuf> {
    Some(PathBuf::from("/usr/share/activemq/bin/activemq.jar")).filter(|path| path.is_file())
}

const AMQP_TOOLS: [&str; 5] = ["amqp-publish", "amqp-get", "amqp-consume", "amqp-declare-queue", "amqp-delete-queue"];

/// On PHP's search path.
const PHP_AMQPLIB: &str = "/usr/share/php/PhpAmqpLib/autoload.php";

pub fn python() -> Option<&'static str> {
    let check = "import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 9))";
    ["python3", "python"].into_iter().find(|name| process::probe(name, &["-c", check]).is_some())
}

/// The command that runs npm: its launcher, or the script beside node when only the launcher is missing.
pub fn npm() -> Option<Vec<PathBuf>> {
    if let Some(launcher) = find("npm") {
        if process::probe(&launcher.to_string_lossy(), &["--version"]).is_some() {
            return Some(vec![launcher]);
        }
    }
    let node = find("node")?;
    let script = node.parent()?.parent()?.join("lib/node_modules/npm/bin/npm-cli.js");
    script.is_file().then(|| vec![node, script])
}

/// What the Go clients' modules ask for. An older go that can fetch a newer toolchain by itself (1.21 and up) is enough.
const GO_MINOR: u32 = 21;

fn go_is_new_enough() -> bool {
    let Some(text) = process::probe("go", &["version"]) else { return false };
    text.split_whitespace().find_map(go_minor).is_some_and(|minor| minor >= GO_MINOR)
}

/// `go1.22.3` is 22.
fn go_minor(word: &str) -> Option<u32> {
    let rest = word.strip_prefix("go1.")?;
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_of_go() {
        assert_eq!(go_minor("go1.26.8"), Some(26));
        assert_eq!(go_minor("go1.21rc2"), Some(21));
        assert_eq!(go_minor("linux/amd64"), None);
    }

    #[test]
    fn a_need_that_cannot_be_met_says_what_is_missing() {
        assert!(find("no-such-program-here").is_none());
        assert!(find("sh").is_some());
    }
}
