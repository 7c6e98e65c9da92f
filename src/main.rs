//! The `processor` program; the code is in [`processor::cli`].

fn main() -> std::process::ExitCode {
    processor::cli::main(std::env::args_os())
}
