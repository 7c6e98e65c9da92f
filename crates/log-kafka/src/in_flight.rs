//! For tests: dying at the moment when a request has left and its answer has not been read.
//!
//! A call of librdkafka that waits for an answer offers no such moment: when it returns, the answer
//! is here. But with `debug=protocol` the library logs "Sent ...Request" once the last byte is with
//! the system. So during the call a second thread reads the log and aborts at that line. Without
//! the feature `faults`, or with another point, the call is simply made.

use super::ffi::{ClientHandle, TxError};
use faults::crash::{self, Point};

/// The transactional producer's `debug` setting; `stale_requests` needs `broker`.
pub(super) fn debug() -> &'static str {
    let wanted = [
        Point::JoinFencing,
        Point::TxOffsetsInFlight,
        Point::TxEndInFlight,
    ]
    .into_iter()
    .any(crash::armed);

    if wanted { "broker,protocol" } else { "broker" }
}

/// Makes the call; dies in its middle if this is the visit to do so.
#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(super) fn call(
    _: Point,
    _: ClientHandle,
    call: impl FnOnce() -> Result<(), TxError>,
) -> Result<(), TxError> {
    call()
}

/// Makes the call; dies in its middle if this is the visit to do so.
#[cfg(feature = "faults")]
pub(super) fn call(
    at: Point,
    handle: ClientHandle,
    call: impl FnOnce() -> Result<(), TxError>,
) -> Result<(), TxError> {
    use super::ffi::{EventQueue, ProducerEvent};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::time::Duration;

    if !crash::due(at) {
        return call();
    }

    let request = match at {
        Point::JoinFencing => "Sent InitProducerIdRequest",
        Point::TxOffsetsInFlight => "Sent TxnOffsetCommitRequest",
        Point::TxEndInFlight => "Sent EndTxnRequest",
        _ => unreachable!("{at:?} is not the sending of a request"),
    };

    let events = EventQueue::main(handle);
    let over = AtomicBool::new(false);
    let watch = || {
        // Moved as a whole: a queue may go to another thread, its pointer may not.
        let events = events;
        loop {
            // On a busy machine the answer may overtake the line. Nobody has been told of it, so
            // that is the same moment all the same.
            let last = over.load(Ordering::Acquire);
            let found = events.next_event(Duration::from_millis(10), &mut |event| match event {
                ProducerEvent::Log { line, .. } if line.contains(request) => crash::die(at),
                _ => {}
            });

            if last && !found {
                return;
            }
        }
    };

    let result = std::thread::scope(|threads| {
        threads.spawn(watch);
        let result = call();
        over.store(true, Ordering::Release);
        result
    });

    // Nothing was sent (no coordinator, say): this was no visit.
    crash::missed(at);
    result
}
