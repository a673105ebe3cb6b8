//! The `lifeboat` program. Everything is in the library; `cli` is the door.

fn main() -> std::process::ExitCode {
    lifeboat::cli::main()
}
