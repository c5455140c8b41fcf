use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: model::CacheLines = model::CacheLines;

fn main() -> ExitCode {
    cli::main(qlora_train::run)
}
