use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(adapter_eval::run)
}
