//! The only unsafe code of the adapter: the few calls of librdkafka that rdkafka's safe layer does
//! not offer, or offers too slowly.
//!
//! Why each is here:
//! * **Batches.** `BaseConsumer::poll` makes an event and an `Arc` per record;
//!   `rd_kafka_consume_batch_queue` on a queue hands over hundreds per call, and names the
//!   partition of an error, which the safe layer loses.
//! * **Wake-ups.** A member waits on the queues of many partitions at once; a callback of each
//!   queue rings one bell (see [`super::bell`]).
//! * **Topic handles and headers.** `BaseProducer::send` looks the topic up by name and makes a C
//!   string for every record.
//! * **Waiting for deliveries.** `BaseProducer::poll` never returns before its time is up, which
//!   puts a floor of 100 ms under its `commit_transaction`. Polling the same event queue ourselves
//!   returns with the first delivery report.
//! * **Generation.** The safe layer has no getter, and a transaction sent with generation -1 is not
//!   fenced by the group at all.
//! * **Changing one setting of a topic.** The safe layer has only the older request, which resets
//!   all settings that it does not name (`alter`).
//! * **OpenSSL's end.** Librdkafka leaves its initialisation to the program.

mod alter;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use rdkafka::TopicPartitionList;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_vtype_t as vtype;

pub(super) use self::alter::alter_topic;
use super::bell::Bell;
use ports::records::{HeaderBuf, Record};

unsafe extern "C" {
    fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;
}

/// Leaves OpenSSL's memory alone when the process ends. By default it is torn down by an exit
/// handler, and a client that is still closing its connections in a thread of librdkafka then reads
/// what is gone: a command that had done its work ended with a segmentation fault now and then.
pub(super) fn keep_openssl_to_the_end() {
    const NO_ATEXIT: u64 = 0x0008_0000;
    static ONCE: std::sync::Once = std::sync::Once::new();

    // SAFETY: OpenSSL (1.1 and later, which librdkafka links) may be initialised explicitly, from
    // any thread, before its first use; without settings.
    ONCE.call_once(|| {
        if unsafe { OPENSSL_init_crypto(NO_ATEXIT, ptr::null()) } == 0 {
            tracing::debug!("OpenSSL was not initialised; librdkafka will say why");
        }
    });
}

/// A client handle of librdkafka. Whoever holds one keeps the client alive longer (field order in
/// the owning structs).
#[derive(Clone, Copy)]
pub(super) struct ClientHandle(*mut sys::rd_kafka_t);

// SAFETY: librdkafka's handle may be used from any thread (its manual, "Threads"); we only pass it
// back to librdkafka.
unsafe impl Send for ClientHandle {}

impl ClientHandle {
    pub(super) fn of<C: rdkafka::ClientContext>(client: &rdkafka::client::Client<C>) -> Self {
        ClientHandle(client.native_ptr())
    }
}

fn ms(d: Duration) -> c_int {
    c_int::try_from(d.as_millis()).unwrap_or(c_int::MAX)
}

fn text(p: *const c_char) -> String {
    if p.is_null() {
        return String::new();
    }

    // SAFETY: librdkafka hands out NUL-terminated strings that live at least until the object they
    // belong to is destroyed; we copy at once.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

fn code(err: sys::rd_kafka_resp_err_t) -> Option<RDKafkaErrorCode> {
    (err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| err.into())
}

/// An error object of librdkafka, with the three flags that say what may be done next.
#[derive(Clone, Debug)]
pub(super) struct TxError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) fatal: bool,
    pub(super) retriable: bool,
    pub(super) abortable: bool,
    pub(super) text: String,
}

/// Takes over an error object; none if the call succeeded.
fn take_error(error: *mut sys::rd_kafka_error_t) -> Result<(), TxError> {
    if error.is_null() {
        return Ok(());
    }

    // SAFETY: `error` is an object that librdkafka just gave us to own; it is read, then destroyed
    // exactly once.
    unsafe {
        let e = TxError {
            code: sys::rd_kafka_error_code(error).into(),
            fatal: sys::rd_kafka_error_is_fatal(error) != 0,
            retriable: sys::rd_kafka_error_is_retriable(error) != 0,
            abortable: sys::rd_kafka_error_txn_requires_abort(error) != 0,
            text: text(sys::rd_kafka_error_string(error)),
        };

        sys::rd_kafka_error_destroy(error);
        Err(e)
    }
}

/// Starts the producer's transactional life: fences the predecessor and waits until its transaction
/// is finished.
pub(super) fn init_transactions(h: ClientHandle, wait: Duration) -> Result<(), TxError> {
    // SAFETY: the handle is alive (see `ClientHandle`).
    take_error(unsafe { sys::rd_kafka_init_transactions(h.0, ms(wait)) })
}

/// Begins a transaction (local, no request).
pub(super) fn begin_transaction(h: ClientHandle) -> Result<(), TxError> {
    // SAFETY: the handle is alive (see `ClientHandle`).
    take_error(unsafe { sys::rd_kafka_begin_transaction(h.0) })
}

/// Commits; everything sent must have been delivered before, else librdkafka waits for reports that
/// nobody serves.
pub(super) fn commit_transaction(h: ClientHandle, wait: Duration) -> Result<(), TxError> {
    // SAFETY: the handle is alive (see `ClientHandle`).
    take_error(unsafe { sys::rd_kafka_commit_transaction(h.0, ms(wait)) })
}

/// Adds the group's offsets to the transaction.
pub(super) fn send_offsets(
    h: ClientHandle,
    offsets: &TopicPartitionList,
    group: &GroupMetadata,
    wait: Duration,
) -> Result<(), TxError> {
    // SAFETY: handle, list and metadata are alive for the call; librdkafka copies both.
    take_error(unsafe {
        sys::rd_kafka_send_offsets_to_transaction(h.0, offsets.ptr(), group.0.as_ptr(), ms(wait))
    })
}

/// The consumer's identity in its group, at one moment.
pub(super) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: a plain object of its own, not tied to a thread.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    pub(super) fn of(consumer: ClientHandle) -> Option<Self> {
        // SAFETY: the handle is alive; the result is null or ours to destroy.
        NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(consumer.0) })
            .map(GroupMetadata)
    }

    /// Negative: not a member, and the broker would not check anything.
    pub(super) fn generation(&self) -> i32 {
        // SAFETY: the object lives as long as `self`.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: ours, destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

/// One queue of librdkafka.
pub(super) struct EventQueue {
    raw: NonNull<sys::rd_kafka_queue_t>,
    /// The argument of librdkafka's callback; null if the queue rings no bell.
    ring: *mut Ring,
}

/// Which bell a queue rings, and as whom.
struct Ring {
    bell: Arc<Bell>,
    key: u32,
}

// SAFETY: librdkafka's queues are locked inside, so one may be polled from any thread; the ring is
// only read, and a bell may be rung from any thread.
unsafe impl Send for EventQueue {}

impl Drop for EventQueue {
    fn drop(&mut self) {
        // SAFETY: we hold one reference, given up once, before the client (field order in the
        // owners). Librdkafka calls back and takes the callback off under the same lock of the
        // queue: after the second call no callback is running or will be made, so the ring can be
        // freed.
        unsafe {
            if !self.ring.is_null() {
                sys::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), None, ptr::null_mut());
                drop(Box::from_raw(self.ring));
            }

            sys::rd_kafka_queue_destroy(self.raw.as_ptr());
        }
    }
}

/// Librdkafka calls this when a queue that was empty has got something, with the queue's lock held:
/// it must not call back into librdkafka.
unsafe extern "C" fn rung(_: *mut sys::rd_kafka_t, ring: *mut c_void) {
    // SAFETY: `ring` is what `EventQueue::connect` gave, alive until the callback is taken off; nobody
    // has a mutable reference to it.
    let ring = unsafe { &*ring.cast::<Ring>() };
    ring.bell.ring(ring.key);
}

/// An event of a producer's queue.
pub(super) enum ProducerEvent<'a> {
    /// The fate of one record that was sent.
    Delivery {
        topic: usize,
        partition: i32,
        offset: i64,
        error: Option<RDKafkaErrorCode>,
    },
    /// A log line.
    Log {
        level: i32,
        facility: &'a str,
        line: &'a str,
    },
    /// Statistics, as JSON.
    Statistics(&'a [u8]),
    /// A client-wide error.
    Error {
        code: Option<RDKafkaErrorCode>,
        fatal: bool,
        line: &'a str,
    },
}

impl EventQueue {
    /// A new queue for records.
    pub(super) fn new(h: ClientHandle) -> Self {
        // SAFETY: the handle is alive; librdkafka never answers null here.
        EventQueue::of(unsafe { sys::rd_kafka_queue_new(h.0) }).expect("librdkafka makes a queue")
    }

    /// The client's main queue: deliveries, logs, errors.
    pub(super) fn main(h: ClientHandle) -> Self {
        // SAFETY: the handle is alive; librdkafka never answers null here.
        EventQueue::of(unsafe { sys::rd_kafka_queue_get_main(h.0) })
            .expect("librdkafka has a main queue")
    }

    /// A consumer's own queue: rebalances and errors. None if the client is no consumer of a group.
    pub(super) fn control(h: ClientHandle) -> Option<Self> {
        // SAFETY: the handle is alive.
        EventQueue::of(unsafe { sys::rd_kafka_queue_get_consumer(h.0) })
    }

    /// The queue of one partition. From now on what is fetched for the partition stays there: that
    /// holds for the client's life, also over new assignments. What came before went to the
    /// consumer's own queue.
    pub(super) fn of_partition(h: ClientHandle, topic: &CStr, partition: i32) -> Option<Self> {
        // SAFETY: handle and name are alive; the reference that we get is ours until `drop`; null
        // is allowed as the place to forward to.
        unsafe {
            let queue = EventQueue::of(sys::rd_kafka_queue_get_partition(
                h.0,
                topic.as_ptr(),
                partition,
            ))?;
            sys::rd_kafka_queue_forward(queue.raw.as_ptr(), ptr::null_mut());
            Some(queue)
        }
    }

    fn of(raw: *mut sys::rd_kafka_queue_t) -> Option<Self> {
        Some(EventQueue {
            raw: NonNull::new(raw)?,
            ring: ptr::null_mut(),
        })
    }

    /// Rings the bell with this key whenever the queue was empty and gets something. What is there
    /// already rings nothing: look once.
    pub(super) fn connect(&mut self, bell: &Arc<Bell>, key: u32) {
        debug_assert!(self.ring.is_null(), "a queue rings one bell");
        self.ring = Box::into_raw(Box::new(Ring {
            bell: Arc::clone(bell),
            key,
        }));

        // SAFETY: the queue is alive; the ring lives until `drop` has taken the callback off.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), Some(rung), self.ring.cast())
        }
    }

    /// Sends what is fetched for a partition to this queue. Stays in force for the client's life,
    /// also over new assignments.
    pub(super) fn attach(&self, h: ClientHandle, topic: &CStr, partition: i32) {
        // SAFETY: handle, name and both queues are alive; the partition's reference is given up
        // after forwarding, which keeps its own.
        unsafe {
            if let Some(part) = NonNull::new(sys::rd_kafka_queue_get_partition(
                h.0,
                topic.as_ptr(),
                partition,
            )) {
                sys::rd_kafka_queue_forward(part.as_ptr(), self.raw.as_ptr());
                sys::rd_kafka_queue_destroy(part.as_ptr());
            }
        }
    }

    /// Waits for one event and hands over what it carries. False if none came.
    pub(super) fn next_event(&self, wait: Duration, on: &mut dyn FnMut(ProducerEvent<'_>)) -> bool {
        // SAFETY: the queue is alive; the event is ours, read with its own accessors and destroyed
        // once; borrowed texts and messages do not leave the callback.
        unsafe {
            let Some(event) = NonNull::new(sys::rd_kafka_queue_poll(self.raw.as_ptr(), ms(wait)))
            else {
                return false;
            };

            let e = event.as_ptr();
            match sys::rd_kafka_event_type(e) {
                sys::RD_KAFKA_EVENT_DR => loop {
                    let m = sys::rd_kafka_event_message_next(e);
                    if m.is_null() {
                        break;
                    }

                    let m = &*m;
                    on(ProducerEvent::Delivery {
                        topic: m.rkt as usize,
                        partition: m.partition,
                        offset: m.offset,
                        error: code(m.err),
                    });
                },
                sys::RD_KAFKA_EVENT_LOG => {
                    let mut facility = ptr::null();
                    let mut line = ptr::null();
                    let mut level = 0;
                    if sys::rd_kafka_event_log(e, &mut facility, &mut line, &mut level) == 0 {
                        let facility = CStr::from_ptr(facility).to_string_lossy();
                        let line = CStr::from_ptr(line).to_string_lossy();
                        on(ProducerEvent::Log {
                            level,
                            facility: &facility,
                            line: &line,
                        });
                    }
                }
                sys::RD_KAFKA_EVENT_ERROR => {
                    let line = text(sys::rd_kafka_event_error_string(e));
                    let fatal = sys::rd_kafka_event_error_is_fatal(e) != 0;
                    on(ProducerEvent::Error {
                        code: code(sys::rd_kafka_event_error(e)),
                        fatal,
                        line: &line,
                    });
                }
                sys::RD_KAFKA_EVENT_STATS => {
                    let json = sys::rd_kafka_event_stats(e);
                    if !json.is_null() {
                        on(ProducerEvent::Statistics(CStr::from_ptr(json).to_bytes()));
                    }
                }
                _ => {}
            }

            sys::rd_kafka_event_destroy(e);
            true
        }
    }

    /// Takes up to `max` records or partition errors, waiting for the first only. `buffer` is
    /// scratch space, reused between calls.
    pub(super) fn take(
        &self,
        wait: Duration,
        max: usize,
        buffer: &mut Vec<usize>,
        on: &mut dyn FnMut(&FetchedMessage<'_>),
    ) -> usize {
        // The C call waits until its array is full, so the first record is awaited alone and the
        // rest taken without waiting.
        let first = self.batch(wait, 1, buffer, on);
        if first == 0 || max <= 1 {
            first
        } else {
            first + self.batch(Duration::ZERO, max - 1, buffer, on)
        }
    }

    /// Takes up to `max` of what is there, without waiting. Fewer than that means that the queue
    /// was empty for a moment.
    pub(super) fn take_ready(
        &self,
        max: usize,
        buffer: &mut Vec<usize>,
        on: &mut dyn FnMut(&FetchedMessage<'_>),
    ) -> usize {
        self.batch(Duration::ZERO, max, buffer, on)
    }

    fn batch(
        &self,
        wait: Duration,
        max: usize,
        buffer: &mut Vec<usize>,
        on: &mut dyn FnMut(&FetchedMessage<'_>),
    ) -> usize {
        if buffer.len() < max {
            buffer.resize(max, 0);
        }

        // SAFETY: the array has room for `max` pointers (usize and pointers have the same size and
        // alignment); librdkafka fills the first `n` with messages that are ours; each is read,
        // then destroyed once, and no borrow leaves the callback.
        unsafe {
            let n = sys::rd_kafka_consume_batch_queue(
                self.raw.as_ptr(),
                ms(wait),
                buffer.as_mut_ptr().cast(),
                max,
            );
            let n = usize::try_from(n).unwrap_or(0);
            for p in &buffer[..n] {
                let m = *p as *mut sys::rd_kafka_message_t;
                on(&FetchedMessage { raw: &*m });
                sys::rd_kafka_message_destroy(m);
            }

            n
        }
    }
}

/// A fetched record, or an error of a partition.
pub(super) struct FetchedMessage<'a> {
    raw: &'a sys::rd_kafka_message_t,
}

impl FetchedMessage<'_> {
    pub(super) fn partition(&self) -> i32 {
        self.raw.partition
    }

    pub(super) fn offset(&self) -> i64 {
        self.raw.offset
    }

    pub(super) fn error(&self) -> Option<RDKafkaErrorCode> {
        code(self.raw.err)
    }

    pub(super) fn error_text(&self) -> String {
        // SAFETY: the message is alive; the text belongs to it or is static.
        text(unsafe { sys::rd_kafka_message_errstr(self.raw) })
    }

    pub(super) fn key(&self) -> Option<&[u8]> {
        // SAFETY: librdkafka says where the key is and how long; it lives as long as the message.
        (!self.raw.key.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(self.raw.key.cast(), self.raw.key_len) })
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        (!self.raw.payload.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(self.raw.payload.cast(), self.raw.len) })
    }

    /// The record's time; none if the broker had to stamp it (`by_broker`) and did not.
    pub(super) fn log_time_ms(&self, by_broker: bool) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;

        // SAFETY: the message is alive, and `kind` outlives the call.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.raw, &mut kind) };
        (!by_broker || kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
            .then_some(time)
    }

    /// Packs the headers. Lazily parsed by librdkafka, so it costs only who asks.
    pub(super) fn headers(&self, into: &mut HeaderBuf) {
        into.clear();
        let mut list = ptr::null_mut();

        // SAFETY: the list belongs to the message; names and values are borrowed from it and copied
        // at once.
        unsafe {
            if code(sys::rd_kafka_message_headers(self.raw, &mut list)).is_some() {
                return;
            }

            let mut name = ptr::null();
            let mut value = ptr::null();
            let mut size = 0;
            let mut i = 0;
            while code(sys::rd_kafka_header_get_all(
                list, i, &mut name, &mut value, &mut size,
            ))
            .is_none()
            {
                let value = if value.is_null() {
                    &[][..]
                } else {
                    std::slice::from_raw_parts(value.cast::<u8>(), size)
                };

                into.push(&CStr::from_ptr(name).to_string_lossy(), value);
                i += 1;
            }
        }
    }
}

/// A producer's handle of one topic.
pub(super) struct ProducerTopic(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: topic handles are reference counted and locked inside librdkafka.
unsafe impl Send for ProducerTopic {}

impl ProducerTopic {
    /// Opens the topic. Must be dropped before the client (field order in the owners).
    pub(super) fn open(h: ClientHandle, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;

        // SAFETY: handle and name are alive; no topic configuration is passed, so none changes
        // owner.
        NonNull::new(unsafe { sys::rd_kafka_topic_new(h.0, name.as_ptr(), ptr::null_mut()) })
            .map(ProducerTopic)
    }

    /// Identity, as delivery reports carry it.
    pub(super) fn handle(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Queues a record for its partition. Timestamp 0 lets librdkafka take the present time.
    pub(super) fn produce(&self, h: ClientHandle, r: &Record<'_>) -> Result<(), RDKafkaErrorCode> {
        let part = |b: Option<&[u8]>| match b {
            None => (ptr::null_mut::<c_void>(), 0usize),
            Some([]) => (EMPTY.as_ptr() as *mut c_void, 0),
            Some(b) => (b.as_ptr() as *mut c_void, b.len()),
        };

        let (value, value_len) = part(r.value);
        let (key, key_len) = part(r.key);

        // SAFETY: the arguments follow rd_kafka_producev's tags; key and value are copied
        // (MSG_F_COPY) before it returns; the header list becomes librdkafka's when it succeeds and
        // is destroyed by us when it does not.
        unsafe {
            let mut headers = ptr::null_mut();
            if !r.headers.as_bytes().is_empty() {
                headers = sys::rd_kafka_headers_new(6);
                for (name, value) in r.headers.iter() {
                    let e = sys::rd_kafka_header_add(
                        headers,
                        name.as_ptr().cast(),
                        name.len() as isize,
                        value.as_ptr().cast(),
                        value.len() as isize,
                    );

                    debug_assert!(code(e).is_none());
                }
            }

            let e = sys::rd_kafka_producev(
                h.0,
                vtype::RD_KAFKA_VTYPE_RKT,
                self.0.as_ptr(),
                vtype::RD_KAFKA_VTYPE_PARTITION,
                r.at.partition as c_int,
                vtype::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                vtype::RD_KAFKA_VTYPE_VALUE,
                value,
                value_len,
                vtype::RD_KAFKA_VTYPE_KEY,
                key,
                key_len,
                vtype::RD_KAFKA_VTYPE_TIMESTAMP,
                // Output that follows from a record without a time has the time of its writing:
                // that is what 0 means to librdkafka.
                r.timestamp_ms.max(0),
                vtype::RD_KAFKA_VTYPE_HEADERS,
                headers,
                vtype::RD_KAFKA_VTYPE_END,
            );

            match code(e) {
                None => Ok(()),
                Some(e) => {
                    if !headers.is_null() {
                        sys::rd_kafka_headers_destroy(headers);
                    }

                    Err(e)
                }
            }
        }
    }
}

/// An address for parts that are present but empty; a null pointer would mean "absent".
static EMPTY: [u8; 1] = [0];

impl Drop for ProducerTopic {
    fn drop(&mut self) {
        // SAFETY: ours, given up once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}
