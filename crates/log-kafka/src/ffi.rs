//! The only unsafe code of the adapter: librdkafka calls that rdkafka's safe layer does not offer,
//! or offers too slowly.
//!
//! Reason for each call:
//! * **Batches.** `BaseConsumer::poll` creates an event and an `Arc` per record.
//!   `rd_kafka_consume_batch_queue` returns hundreds of records per call. It also names the
//!   partition of an error, and the safe layer loses this partition.
//! * **Wake-ups.** A member waits on the queues of many partitions at once. A callback of each
//!   queue rings one bell (see [`super::bell`]).
//! * **Topic handles and headers.** `BaseProducer::send` finds the topic by name and creates a C
//!   string for every record.
//! * **Waiting for deliveries.** `BaseProducer::poll` never returns before its timeout, so
//!   rdkafka's `commit_transaction` takes at least 100 ms. Our own poll of the same event queue
//!   returns with the first delivery report.
//! * **Generation.** The safe layer has no getter. The group does not fence a transaction that
//!   carries generation -1.
//! * **Changing one setting of a topic.** The safe layer has only the older AlterConfigs request,
//!   which resets all settings that the request does not name (`alter`; KIP-339 adds the
//!   incremental request).
//! * **OpenSSL's end.** librdkafka leaves the initialisation of OpenSSL to the program.

mod alter;

use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;
use std::time::Duration;

use ports::records::{HeaderBuf, Record};
use rdkafka::TopicPartitionList;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka_sys as sys;
use rdkafka_sys::rd_kafka_vtype_t as vtype;

pub(super) use self::alter::alter_topic;
use super::bell::Bell;

unsafe extern "C" {
    fn OPENSSL_init_crypto(options: u64, settings: *const c_void) -> c_int;
}

/// Keeps OpenSSL's memory until the process ends. By default an exit handler frees this memory.
/// librdkafka may still close connections in its own threads and then reads freed memory. Finished
/// commands sometimes ended with a segmentation fault for this reason.
pub(super) fn disable_openssl_atexit() {
    const NO_ATEXIT: u64 = 0x0008_0000;
    static ONCE: std::sync::Once = std::sync::Once::new();

    // SAFETY: OpenSSL (1.1 and later, which librdkafka links) allows explicit initialisation from
    // any thread, before the first use. The null pointer means: no settings.
    ONCE.call_once(|| {
        if unsafe { OPENSSL_init_crypto(NO_ATEXIT, ptr::null()) } == 0 {
            tracing::debug!("OpenSSL was not initialised; librdkafka will say why");
        }
    });
}

/// A client handle of librdkafka. The owner of a handle must keep the client alive longer than the
/// handle (field order in the owning structs).
#[derive(Clone, Copy)]
pub(super) struct ClientHandle(*mut sys::rd_kafka_t);

// SAFETY: any thread may use librdkafka's handle (its manual, "Threads"). We only pass the handle
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

    // SAFETY: librdkafka returns NUL-terminated strings. They live at least until their object is
    // destroyed, and we copy at once.
    unsafe { CStr::from_ptr(p) }.to_string_lossy().into_owned()
}

fn code(err: sys::rd_kafka_resp_err_t) -> Option<RDKafkaErrorCode> {
    (err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then(|| err.into())
}

/// An error object of librdkafka, with the three flags that decide about the next step.
#[derive(Clone, Debug)]
pub(super) struct TxError {
    pub(super) code: RDKafkaErrorCode,
    pub(super) fatal: bool,
    pub(super) retriable: bool,
    pub(super) abortable: bool,
    pub(super) text: String,
}

/// Takes ownership of an error object. A null pointer means success.
fn take_error(error: *mut sys::rd_kafka_error_t) -> Result<(), TxError> {
    if error.is_null() {
        return Ok(());
    }

    // SAFETY: librdkafka just gave us ownership of `error`. We read the object, then destroy it
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

/// Initialises the transactional producer (InitProducerId, KIP-98). The call fences the predecessor
/// and waits until the predecessor's transaction is finished.
pub(super) fn init_transactions(h: ClientHandle, wait: Duration) -> Result<(), TxError> {
    // SAFETY: the handle is alive (see `ClientHandle`).
    take_error(unsafe { sys::rd_kafka_init_transactions(h.0, ms(wait)) })
}

/// Begins a transaction (local, no request).
pub(super) fn begin_transaction(h: ClientHandle) -> Result<(), TxError> {
    // SAFETY: the handle is alive (see `ClientHandle`).
    take_error(unsafe { sys::rd_kafka_begin_transaction(h.0) })
}

/// Commits. All sent records must be delivered before the call. Otherwise librdkafka waits for
/// delivery reports that no thread serves.
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

/// The consumer's group metadata (KIP-447) at one moment: member id and generation.
pub(super) struct GroupMetadata(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: a plain object that is not tied to a thread.
unsafe impl Send for GroupMetadata {}

impl GroupMetadata {
    pub(super) fn of(consumer: ClientHandle) -> Option<Self> {
        // SAFETY: the handle is alive; the result is null or ours to destroy.
        NonNull::new(unsafe { sys::rd_kafka_consumer_group_metadata(consumer.0) })
            .map(GroupMetadata)
    }

    /// The generation. Negative: the client is not a member, and the broker would check nothing.
    pub(super) fn generation(&self) -> i32 {
        // SAFETY: the object lives as long as `self`.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) }
    }
}

impl Drop for GroupMetadata {
    fn drop(&mut self) {
        // SAFETY: we own the object and destroy it once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

pub(super) struct EventQueue {
    raw: NonNull<sys::rd_kafka_queue_t>,
    /// The argument of librdkafka's callback; null if the queue rings no bell.
    ring: *mut Ring,
}

/// The bell that a queue rings, and the key of the queue.
struct Ring {
    bell: Arc<Bell>,
    key: u32,
}

// SAFETY: librdkafka locks its queues inside, so any thread may poll a queue. The ring is only
// read, and any thread may ring a bell.
unsafe impl Send for EventQueue {}

impl Drop for EventQueue {
    fn drop(&mut self) {
        // SAFETY: we hold one reference and release it once, before the client (field order in the
        // owners). librdkafka calls and removes the callback under the same lock of the queue.
        // After the removal no callback runs or will run, so the ring can be freed.
        unsafe {
            if !self.ring.is_null() {
                sys::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), None, ptr::null_mut());
                drop(Box::from_raw(self.ring));
            }

            sys::rd_kafka_queue_destroy(self.raw.as_ptr());
        }
    }
}

/// librdkafka calls this function with the queue's lock held, when an empty queue gets an event.
/// The function must not call back into librdkafka.
unsafe extern "C" fn rung(_: *mut sys::rd_kafka_t, ring: *mut c_void) {
    // SAFETY: `ring` comes from `EventQueue::connect` and lives until the callback is removed. No
    // mutable reference to the ring exists.
    let ring = unsafe { &*ring.cast::<Ring>() };
    ring.bell.ring(ring.key);
}

/// An event of a producer's queue.
pub(super) enum ProducerEvent<'a> {
    /// The delivery report of one record.
    Delivery {
        topic: usize,
        partition: i32,
        offset: i64,
        error: Option<RDKafkaErrorCode>,
    },
    Log {
        level: i32,
        facility: &'a str,
        line: &'a str,
    },
    /// Statistics, as JSON.
    Statistics(&'a [u8]),
    /// An error of the whole client.
    Error {
        code: Option<RDKafkaErrorCode>,
        fatal: bool,
        line: &'a str,
    },
}

impl EventQueue {
    /// Creates a new queue for records.
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

    /// A consumer's own queue: rebalances and errors. `None` if the client is not a group consumer.
    pub(super) fn control(h: ClientHandle) -> Option<Self> {
        // SAFETY: the handle is alive.
        EventQueue::of(unsafe { sys::rd_kafka_queue_get_consumer(h.0) })
    }

    /// The queue of one partition. From now on, fetched records of the partition stay in this
    /// queue, for the life of the client and across new assignments. Earlier records went to the
    /// consumer's own queue.
    pub(super) fn of_partition(h: ClientHandle, topic: &CStr, partition: i32) -> Option<Self> {
        // SAFETY: handle and name are alive. We own the returned reference until `drop`. A null
        // pointer is allowed as the forwarding target.
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

    /// Rings the bell with this key each time the empty queue gets an event. Events that are
    /// already in the queue ring nothing, so the caller must read the queue once.
    pub(super) fn connect(&mut self, bell: &Arc<Bell>, key: u32) {
        debug_assert!(self.ring.is_null(), "a queue rings one bell");
        self.ring = Box::into_raw(Box::new(Ring {
            bell: Arc::clone(bell),
            key,
        }));

        // SAFETY: the queue is alive. The ring lives until `drop` has removed the callback.
        unsafe {
            sys::rd_kafka_queue_cb_event_enable(self.raw.as_ptr(), Some(rung), self.ring.cast())
        }
    }

    /// Forwards fetched records of a partition to this queue. The forwarding stays for the client's
    /// life, also across new assignments.
    pub(super) fn attach(&self, h: ClientHandle, topic: &CStr, partition: i32) {
        // SAFETY: handle, name and both queues are alive. The partition's reference is released
        // after forwarding, and the forwarding keeps a reference of its own.
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

    /// Waits for one event and passes its content to `on`. Returns false if no event came.
    pub(super) fn next_event(&self, wait: Duration, on: &mut dyn FnMut(ProducerEvent<'_>)) -> bool {
        // SAFETY: the queue is alive. We own the event, read it with its own accessors and destroy
        // it once. Borrowed texts and messages do not leave the callback.
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

    /// Takes up to `max` records or partition errors, and waits only for the first. `buffer` is
    /// scratch space that the caller reuses.
    pub(super) fn take(
        &self,
        wait: Duration,
        max: usize,
        buffer: &mut Vec<usize>,
        on: &mut dyn FnMut(&FetchedMessage<'_>),
    ) -> usize {
        // The C call waits until its array is full. So the first call waits for one record, and the
        // second call takes the rest without a wait.
        let first = self.batch(wait, 1, buffer, on);
        if first == 0 || max <= 1 {
            first
        } else {
            first + self.batch(Duration::ZERO, max - 1, buffer, on)
        }
    }

    /// Takes up to `max` records or errors from the queue, without waiting. A smaller number means
    /// that the queue was empty for a moment.
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

        // SAFETY: the array has space for `max` pointers (usize and pointers have the same size and
        // alignment). librdkafka fills the first `n` with messages that we own. Each message is
        // read, then destroyed once, and no borrow leaves the callback.
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
        // SAFETY: librdkafka gives address and length of the key. The key lives as long as the
        // message.
        (!self.raw.key.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(self.raw.key.cast(), self.raw.key_len) })
    }

    pub(super) fn value(&self) -> Option<&[u8]> {
        // SAFETY: as for the key.
        (!self.raw.payload.is_null())
            .then(|| unsafe { std::slice::from_raw_parts(self.raw.payload.cast(), self.raw.len) })
    }

    /// The record's timestamp in ms. `None` if the time must be the broker's (`by_broker`, that is
    /// LogAppendTime) and is not.
    pub(super) fn log_time_ms(&self, by_broker: bool) -> Option<i64> {
        let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;

        // SAFETY: the message is alive, and `kind` outlives the call.
        let time = unsafe { sys::rd_kafka_message_timestamp(self.raw, &mut kind) };
        (!by_broker || kind == sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME)
            .then_some(time)
    }

    /// Packs the headers into `into`. librdkafka parses headers lazily, so only callers of this
    /// function pay the cost.
    pub(super) fn headers(&self, into: &mut HeaderBuf) {
        into.clear();
        let mut list = ptr::null_mut();

        // SAFETY: the list belongs to the message. Names and values are borrowed from the list and
        // copied at once.
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

/// A producer's handle of a topic.
pub(super) struct ProducerTopic(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: topic handles are reference counted and locked inside librdkafka.
unsafe impl Send for ProducerTopic {}

impl ProducerTopic {
    /// Opens the topic. The handle must be dropped before the client (field order in the owners).
    pub(super) fn open(h: ClientHandle, name: &str) -> Option<Self> {
        let name = CString::new(name).ok()?;

        // SAFETY: handle and name are alive. No topic configuration is passed, so no ownership
        // changes.
        NonNull::new(unsafe { sys::rd_kafka_topic_new(h.0, name.as_ptr(), ptr::null_mut()) })
            .map(ProducerTopic)
    }

    /// Identity of the topic in delivery reports.
    pub(super) fn handle(&self) -> usize {
        self.0.as_ptr() as usize
    }

    /// Queues a record for its partition. With timestamp 0 librdkafka takes the current time.
    pub(super) fn produce(&self, h: ClientHandle, r: &Record<'_>) -> Result<(), RDKafkaErrorCode> {
        let part = |b: Option<&[u8]>| match b {
            None => (ptr::null_mut::<c_void>(), 0usize),
            Some([]) => (EMPTY.as_ptr() as *mut c_void, 0),
            Some(b) => (b.as_ptr() as *mut c_void, b.len()),
        };

        let (value, value_len) = part(r.value);
        let (key, key_len) = part(r.key);

        // SAFETY: the arguments follow rd_kafka_producev's tags. librdkafka copies key and value
        // (MSG_F_COPY) before it returns. On success librdkafka owns the header list; on failure we
        // destroy the list.
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
                // An output has the time of its input record. For an input without a time (-1),
                // send 0, which librdkafka replaces by the current time.
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

/// Address of present but empty keys and values. A null pointer would mean "absent".
static EMPTY: [u8; 1] = [0];

impl Drop for ProducerTopic {
    fn drop(&mut self) {
        // SAFETY: we own the reference and release it once.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) }
    }
}
