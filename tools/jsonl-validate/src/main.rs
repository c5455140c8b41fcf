//! The door to jsonl-validate; the room is lib.rs.

fn main() -> std::process::ExitCode {
    cli::main(jsonl_validate::run)
}
