//! Writes for clients. Records wait in a queue, and a thread appends all queued records at once. A
//! burst of thousands of records then costs a single write.

use std::sync::{Arc, Condvar, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use ports::records::{Record, Records};
use ports::{Appender, LogError};

use super::LogHandle;
use super::core::WriteRefused;

/// Size limit of the queue, in bytes.
const QUEUE_BYTES: usize = 8 << 20;
/// A queue of this size is written at once, without waiting for more records.
const ENOUGH_BYTES: usize = 64 << 10;

pub(crate) struct LocalAppender {
    handle: Arc<LogHandle>,
    queue: Arc<AppendQueue>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct AppendQueue {
    inner: Mutex<AppenderInner>,
    /// Signals work to the thread.
    work: Condvar,
    /// Signals progress of the thread.
    done: Condvar,
}

#[derive(Default)]
struct AppenderInner {
    records: Records,
    queued: u64,
    written: u64,
    hurry: bool,
    closed: bool,
    failed: Option<String>,
}

impl AppendQueue {
    fn lock(&self) -> MutexGuard<'_, AppenderInner> {
        self.inner
            .lock()
            .expect("nobody panics while holding the queue")
    }
}

impl AppenderInner {
    fn check(&self) -> Result<(), LogError> {
        self.failed
            .clone()
            .map_or(Ok(()), |why| Err(LogError::Io(why)))
    }
}

impl LocalAppender {
    pub(crate) fn new(handle: Arc<LogHandle>) -> Result<Self, LogError> {
        let queue = Arc::new(AppendQueue::default());
        let theirs = queue.clone();
        let log = handle.clone();
        let thread = std::thread::Builder::new()
            .name("log-appender".to_string())
            .spawn(move || write_all(&log, &theirs));
        let thread =
            thread.map_err(|e| LogError::Unavailable(format!("no thread can be started: {e}")))?;
        Ok(LocalAppender {
            handle,
            queue,
            thread: Some(thread),
        })
    }
}

fn write_all(handle: &LogHandle, queue: &AppendQueue) {
    let mut batch = Records::new();
    loop {
        let mut inner = queue.lock();
        while inner.records.is_empty() && !inner.closed {
            inner = queue
                .work
                .wait(inner)
                .expect("nobody panics while holding the queue");
        }

        if inner.records.is_empty() {
            return;
        }

        let linger = Instant::now() + handle.core.options.linger;
        while !inner.hurry && !inner.closed && inner.records.size_bytes() < ENOUGH_BYTES {
            let left = linger.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                break;
            }

            inner = queue
                .work
                .wait_timeout(inner, left)
                .expect("nobody panics while holding the queue")
                .0;
        }

        batch.clear();
        std::mem::swap(&mut batch, &mut inner.records);
        let upto = inner.queued;
        inner.hurry = false;
        drop(inner);
        let written =
            handle.pack(&batch).and_then(|packed| {
                let batches = packed
                    .into_iter()
                    .map(|(_, part, builder)| (part, builder))
                    .collect();
                handle.core.commit(batches, None, &[]).map(|_| ()).map_err(
                    |refused| match refused {
                        WriteRefused::Broken(why) => LogError::Io(why),
                        WriteRefused::Fenced | WriteRefused::Stale => {
                            LogError::Invalid("an append belongs to no group".to_string())
                        }
                    },
                )
            });

        let mut inner = queue.lock();
        inner.written = upto;
        if let Err(e) = written {
            inner.failed.get_or_insert(e.to_string());
        }

        queue.done.notify_all();
    }
}

impl Appender for LocalAppender {
    fn append(&mut self, record: &Record<'_>) -> Result<(), LogError> {
        self.handle.check(record)?;
        let mut inner = self.queue.lock();
        while inner.records.size_bytes() >= QUEUE_BYTES && inner.failed.is_none() {
            inner = self
                .queue
                .done
                .wait(inner)
                .expect("nobody panics while holding the queue");
        }

        inner.check()?;
        let before = inner.records.size_bytes();
        inner.records.push(record);
        inner.queued += 1;

        // The thread waits either for the first record or for `ENOUGH_BYTES`.
        if inner.records.len() == 1
            || (before < ENOUGH_BYTES && inner.records.size_bytes() >= ENOUGH_BYTES)
        {
            self.queue.work.notify_one();
        }

        Ok(())
    }

    fn flush(&mut self, wait: Duration) -> Result<(), LogError> {
        let until = Instant::now() + wait;
        let mut inner = self.queue.lock();
        let target = inner.queued;
        while inner.written < target && inner.failed.is_none() {
            inner.hurry = !inner.records.is_empty();
            self.queue.work.notify_one();
            let left = until.saturating_duration_since(Instant::now());
            if left == Duration::ZERO {
                return Err(LogError::Unavailable(format!(
                    "{} records are still not written after {wait:?}",
                    target - inner.written
                )));
            }

            inner = self
                .queue
                .done
                .wait_timeout(inner, left)
                .expect("nobody panics while holding the queue")
                .0;
        }

        inner.check()
    }
}

impl Drop for LocalAppender {
    fn drop(&mut self) {
        self.queue.lock().closed = true;
        self.queue.work.notify_one();
        if let Some(thread) = self.thread.take() {
            // The thread has already printed its panic, and a destructor cannot pass the panic on.
            let _joined = thread.join();
        }
    }
}
