//! The `prompt-cost` program.

fn main() -> std::process::ExitCode {
    cli::main(prompt_cost::run)
}
