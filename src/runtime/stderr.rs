//! Writes to stderr without ending or blocking the program.
//!
//! Log lines must not affect the work. Otherwise, a closed pipe or a full disk would end a role
//! with a panic, and a blocked reader would block a role. Write errors are therefore ignored. A
//! line that cannot be written within `PATIENCE` is dropped. Before the next line, a note gives the
//! number of dropped lines.

use std::io::{self, Write};
use std::sync::Mutex;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Longest wait of a line for a blocked reader. After a dropped line, later lines do not wait until
/// a write works again.
const PATIENCE: Duration = Duration::from_millis(50);
/// A writable pipe takes this many bytes at once (`PIPE_BUF`).
const PIECE: usize = 4096;

/// Lines dropped since the last written line.
static DROPPED: Mutex<u64> = Mutex::new(0);

/// Stderr for log lines.
#[derive(Clone, Copy, Debug, Default)]
pub struct Stderr;

impl Write for Stderr {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut dropped = DROPPED
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        put(&mut io::stderr().lock(), &mut dropped, line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Writes a note to stderr, if possible.
pub fn note(text: impl std::fmt::Display) {
    // `Stderr` never returns an error.
    Stderr
        .write_all(format!("{text}\n").as_bytes())
        .unwrap_or_default();
}

fn put(to: &mut (impl Write + std::os::fd::AsFd), dropped: &mut u64, line: &[u8]) {
    if *dropped > 0 {
        let told = format!(
            "{dropped} log lines before this one were dropped: stderr could not be written\n"
        );
        if !piecewise(to, told.as_bytes(), Duration::ZERO) {
            *dropped += 1;
            return;
        }

        *dropped = 0;
    }

    if !piecewise(to, line, PATIENCE) {
        *dropped += 1;
    }
}

/// True if all bytes were written.
fn piecewise(to: &mut (impl Write + std::os::fd::AsFd), bytes: &[u8], patience: Duration) -> bool {
    bytes
        .chunks(PIECE)
        .all(|piece| writable(to, patience) && to.write_all(piece).is_ok())
}

fn writable(to: &impl std::os::fd::AsFd, patience: Duration) -> bool {
    let wait = Timespec::try_from(patience).unwrap_or(Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    });

    let mut asked = [PollFd::new(to, PollFlags::OUT)];
    match poll(&mut asked, Some(&wait)) {
        Ok(n) => n > 0,
        // Try to write if the stream cannot be polled.
        Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::time::Instant;

    use super::*;

    #[test]
    fn a_reader_that_stands_still_costs_lines_and_no_time() {
        let (mut read, mut write) = io::pipe().expect("a pipe");
        let mut dropped = 0;
        let line = [[b'x'; 4000].as_slice(), b"\n"].concat();
        let began = Instant::now();
        for _ in 0..1_000 {
            put(&mut write, &mut dropped, &line);
        }

        assert!(
            dropped > 900 && began.elapsed() < Duration::from_secs(5),
            "{dropped} lines dropped, {:?}",
            began.elapsed()
        );
        let mut room = vec![0; 64 << 10];
        while writable(&write, Duration::ZERO) || dropped > 0 {
            let n = read.read(&mut room).expect("lines");
            assert!(n > 0);
            let before = dropped;
            put(&mut write, &mut dropped, b"again\n");
            if dropped == 0 {
                drop(write);
                let mut rest = String::new();
                read.read_to_string(&mut rest).expect("text");
                assert!(
                    rest.contains(&format!("{before} log lines before this one were dropped"))
                        && rest.ends_with("again\n"),
                    "{rest}"
                );
                return;
            }
        }

        panic!("nothing was written again");
    }

    #[test]
    fn a_reader_that_is_gone_is_no_error() {
        let (read, mut write) = io::pipe().expect("a pipe");
        drop(read);
        let mut dropped = 0;
        put(&mut write, &mut dropped, b"line\n");
        put(&mut write, &mut dropped, b"line\n");
        assert_eq!(dropped, 2);
    }
}
