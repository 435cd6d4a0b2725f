//! `carrick witness` without the rest of `carrick`, so that few pages of a program are in memory.

fn main() -> std::process::ExitCode {
    server::witness()
}
