//! For tests: the process dies after a request is sent and before its answer is read.
//!
//! A blocking call of librdkafka offers no such moment: on return, the answer is already read. With
//! `debug=protocol` librdkafka logs "Sent ...Request" after the last byte went to the system. So
//! during the call a second thread reads the log and aborts at this line. Without the feature
//! `faults`, or with another crash point armed, the call runs normally.

use faults::crash::{self, Point};

use super::ffi::{ClientHandle, TxError};

/// The `debug` setting of the transactional producer. `stale_requests` needs `broker`.
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

#[cfg(not(feature = "faults"))]
#[inline(always)]
pub(super) fn call(
    _: Point,
    _: ClientHandle,
    call: impl FnOnce() -> Result<(), TxError>,
) -> Result<(), TxError> {
    call()
}

/// Runs `call`. The process dies during `call` if this visit of the crash point is due.
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
        // The closure takes the whole queue: a queue may move to another thread, its raw pointer
        // may not.
        let events = events;
        loop {
            // On a busy machine the answer may come before the log line. No caller has seen the
            // answer yet, so the crash point still holds.
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

    // No request was sent (for example without a coordinator), so this visit does not count.
    crash::missed(at);
    result
}
