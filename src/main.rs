//! The `processor` program: everything it does is in [`processor::cli`].

fn main() -> std::process::ExitCode {
    processor::cli::main(std::env::args_os())
}
