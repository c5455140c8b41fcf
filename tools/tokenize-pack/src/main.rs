//! The `tokenize-pack` program.

fn main() -> std::process::ExitCode {
    cli::main(tokenize_pack::run)
}
