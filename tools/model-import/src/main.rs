//! The door to model-import; the room is lib.rs.

fn main() -> std::process::ExitCode {
    cli::main(model_import::run)
}
