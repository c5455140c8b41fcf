//! The door to jsonl-import; the room is lib.rs.

fn main() -> std::process::ExitCode {
    cli::main(jsonl_import::run)
}
