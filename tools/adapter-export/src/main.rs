//! The door to adapter-export; the room is lib.rs.

fn main() -> std::process::ExitCode {
    cli::main(adapter_export::run)
}
