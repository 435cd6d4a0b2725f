//! The command line. What a flag does not say, its `CARRICK_*` variable may; what neither says, the configuration file may.

use clap::{Args, Parser, Subcommand, ValueEnum};
use std::path::PathBuf;

#[derive(Parser, Debug)]
#[command(
    name = "carrick",
    version,
    about = "A message broker: MQTT, AMQP 0-9-1 and STOMP on one durable log",
    long_about = "A message broker: MQTT, AMQP 0-9-1 and STOMP on one durable log.\n\nWithout a command it serves, as `carrick serve` does.",
    args_conflicts_with_subcommands = true
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Option<Command>,
    #[command(flatten)]
    pub serve: Serve,
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Run the broker (the default)
    Serve(Serve),
    /// Run the third voter of a pair: it keeps no data and helps to decide which of the two is primary
    Witness(Witness),
    /// How a pair is doing, and who is to be its primary, over HTTP
    #[command(subcommand)]
    Ha(Ha),
    /// Look into a data directory
    #[command(subcommand)]
    Journal(Journal),
    /// Load a broker and report rates, latencies, CPU per message, losses
    Bench(bench::Args),
    /// Certificates for trying TLS out
    #[command(subcommand)]
    Tls(Tls),
    /// Read a password from standard input and print its argon2id hash, for `password_hash`
    HashPassword(HashPassword),
}

#[derive(Subcommand, Debug)]
pub enum Ha {
    /// What each node says of itself; exit code 0 all is well, 1 nobody could be asked, 3 something is wrong
    Status {
        #[command(flatten)]
        target: HaTarget,
        /// For programs
        #[arg(long)]
        json: bool,
    },
    /// The primary hands over to its standby, which has to be in sync; its process ends with 75 and is to be started again
    Switchover {
        #[command(flatten)]
        target: HaTarget,
    },
    /// The standby at --url asks the primary to hand over to it
    Promote {
        #[command(flatten)]
        target: HaTarget,
        /// Where an operator is the coordinator, and the other node is off: the epoch that comes next, as `ha status` says it
        #[arg(long, value_name = "N")]
        epoch: Option<u64>,
    },
    /// A standby sets its store aside and takes a copy of the primary's, now
    Join {
        #[command(flatten)]
        target: HaTarget,
    },
    /// A voter that lost its directory (or got an older one back) votes again
    ReplaceVoter {
        /// Its node's name
        #[arg(value_name = "NODE")]
        voter: String,
        #[command(flatten)]
        target: HaTarget,
    },
    /// Two nodes and their coordinator in one process, on a simulated clock, network and disk: faults are drawn from the seed, and what the pair
    /// promises is checked; exit code 0 it held, 1 a promise was broken
    Drill(Drill),
}

#[derive(Args, Debug)]
pub struct Drill {
    /// What goes wrong
    #[arg(long, value_name = "NAME", default_value = "kill", value_parser = ["kill", "stop", "partition", "disk-stall", "clock-jump", "chaos"])]
    pub scenario: String,
    /// The same seed is the same run
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
    /// Runs this many seeds from there on
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub seeds: u64,
    /// Faults in each run, one after the other
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u64).range(1..=1000))]
    pub faults: u64,
    /// Break the broker's own code in this way, to see that it is noticed
    #[arg(long = "break", value_name = "NAME", value_parser = broken_names())]
    pub mutant: Option<String>,
    /// Print what happened, line by line
    #[arg(long)]
    pub verbose: bool,
}

fn broken_names() -> clap::builder::PossibleValuesParser {
    simulation::BREAKS.iter().map(|(name, ..)| *name).collect::<Vec<_>>().into()
}

#[derive(Args, Debug)]
pub struct HaTarget {
    /// The http:// listener of a node; repeatable, for both of a pair
    #[arg(long = "url", value_name = "URL", env = "CARRICK_URL", value_delimiter = ',', default_value = "http://127.0.0.1:15672")]
    pub urls: Vec<String>,
    /// A user with the tag administrator, or, to look only, monitoring
    #[arg(long, value_name = "NAME:PASSWORD", env = "CARRICK_USER", default_value = "guest:guest", hide_env_values = true)]
    pub user: String,
}

#[derive(Args, Debug)]
pub struct HashPassword {
    /// A SCRAM verifier instead, for clients that log in by this mechanism
    #[arg(long, value_enum)]
    pub scram: Option<Scram>,
}

#[derive(ValueEnum, Clone, Copy, Debug)]
pub enum Scram {
    #[value(name = "sha-256")]
    Sha256,
    #[value(name = "sha-512")]
    Sha512,
}

#[derive(Subcommand, Debug)]
pub enum Journal {
    /// List what is in a data directory: log segments, checkpoints, cold files, page files
    Inspect {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
    /// Read everything in the data directory of a broker that does not run; exit code 1 and a list if something is damaged
    Verify {
        #[arg(value_name = "DIR")]
        dir: PathBuf,
    },
}

#[derive(Subcommand, Debug)]
pub enum Tls {
    /// Make a certificate authority, a certificate for this broker and one for a client, and print how to try them
    Dev(TlsDev),
}

#[derive(Args, Debug)]
pub struct Witness {
    /// Configuration file (TOML): node, listen, peers, data_dir, and secret, secret_file or tls
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
}

#[derive(Parser, Debug)]
#[command(
    name = "carrick-witness",
    version,
    about = "The third voter of a pair, as `carrick witness` is it, in a small program of its own"
)]
pub struct WitnessCli {
    #[command(flatten)]
    pub witness: Witness,
    /// Who starts it, which has to be of the same version
    #[arg(long, hide = true, value_name = "VERSION")]
    pub for_carrick: Option<String>,
}

#[derive(Args, Debug)]
pub struct TlsDev {
    /// Where the files go; none of them may be there
    #[arg(long, value_name = "DIR", default_value = "carrick-tls")]
    pub dir: PathBuf,
    /// A name or address of the broker beside localhost; repeatable
    #[arg(long = "host", value_name = "NAME")]
    pub hosts: Vec<String>,
    /// The user that the client's certificate stands for (its CN)
    #[arg(long, value_name = "NAME", default_value = "guest")]
    pub user: String,
}

#[derive(Args, Clone, Default, Debug)]
pub struct Serve {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "CARRICK_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where everything durable is kept [default: ./carrick-data]
    #[arg(long, value_name = "DIR", env = "CARRICK_DATA_DIR")]
    pub data_dir: Option<PathBuf>,
    /// Where to listen, instead of the default listeners; repeatable: mqtt://127.0.0.1:1883, `ws://[::1]:0`, unix:/path
    #[arg(long, value_name = "URL", env = "CARRICK_LISTEN", value_delimiter = ',')]
    pub listen: Vec<String>,
    /// The server's certificate (PEM, its issuers behind it), for mqtts://, amqps://, stomps:// and other listeners with TLS
    #[arg(long, value_name = "FILE", env = "CARRICK_TLS_CERTIFICATE")]
    pub tls_certificate: Option<PathBuf>,
    /// The certificate's private key (PEM, not encrypted) [default: in the certificate's file]
    #[arg(long, value_name = "FILE", env = "CARRICK_TLS_PRIVATE_KEY")]
    pub tls_private_key: Option<PathBuf>,
    /// error, warn, info, debug or trace; for single parts: info,gateway=debug [default: info]
    #[arg(long, value_name = "LEVEL", env = "CARRICK_LOG")]
    pub log: Option<String>,
    /// RabbitMQ's definitions (JSON): users, permissions, policies, exchanges, queues and bindings that are to be there
    #[arg(long, value_name = "FILE", env = "CARRICK_DEFINITIONS")]
    pub definitions: Option<PathBuf>,
    /// Threads that serve connections [default: one less than there are cores, at least 1]
    #[arg(long, value_name = "N", env = "CARRICK_WORKER_THREADS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub worker_threads: Option<u16>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn no_command_means_serve() {
        let bare = Cli::parse_from(["carrick", "--listen", "mqtt://[::1]:0", "--listen", "unix:/x", "--log", "debug"]);
        assert!(bare.command.is_none());
        assert_eq!(bare.serve.listen, ["mqtt://[::1]:0", "unix:/x"]);
        let named = Cli::parse_from(["carrick", "serve", "--data-dir", "d"]);
        assert!(matches!(named.command, Some(Command::Serve(Serve { data_dir: Some(_), .. }))));
        assert!(Cli::try_parse_from(["carrick", "--lisen", "x"]).is_err());
    }
}
