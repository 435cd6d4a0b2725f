fn main() -> std::process::ExitCode {
    server::carrick()
}
