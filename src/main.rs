//! The `processor` program; the code is in [`processor::cli`].

/// Serves librdkafka and RocksDB as well. Both allocate often: each header of a record is an
/// allocation of librdkafka.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    processor::cli::main(std::env::args_os())
}
