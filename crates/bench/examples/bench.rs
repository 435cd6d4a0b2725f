//! The load tool on its own: `cargo run --release -p bench --example bench -- throughput --help`.

use clap::Parser;

#[derive(Parser)]
#[command(name = "bench")]
struct Cli {
    #[command(flatten)]
    args: bench::Args,
}

fn main() -> anyhow::Result<()> {
    std::process::exit(bench::run(Cli::parse().args)?)
}
