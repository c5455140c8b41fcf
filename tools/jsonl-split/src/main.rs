//! The door to jsonl-split; the room is lib.rs.

fn main() -> std::process::ExitCode {
    cli::main(jsonl_split::run)
}
