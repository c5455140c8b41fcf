use std::process::ExitCode;

fn main() -> ExitCode {
    cli::main(qlora_train::run)
}
