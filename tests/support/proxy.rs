//! A proxy between Kafka clients and brokers that understands frames. The proxy can hold a request
//! and deliver it later, even after its client has given up and gone. The proxy can also drop an
//! answer, delay requests, cut one direction and lose connections.
//!
//! Brokers advertise the ports of the proxy, so every client goes through the proxy. A frame is
//! four bytes of length, then api, version, correlation id and client name. Of the body the proxy
//! reads only the transactional id in front of an EndTxn and its relatives. A held frame holds up
//! later frames on the same connection, as a network would. Two threads carry each connection, one
//! for each direction.

#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd as _;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

pub const PRODUCE: i16 = 0;
pub const ADD_OFFSETS_TO_TXN: i16 = 25;
pub const END_TXN: i16 = 26;
pub const TXN_OFFSET_COMMIT: i16 = 28;

/// Time for the answer to a held frame after the client has gone. The connection to the broker
/// stays open until then.
const LAST_ANSWER: Duration = Duration::from_secs(10);
const STACK: usize = 128 << 10;

fn lock<T>(m: &Mutex<T>) -> MutexGuard<'_, T> {
    m.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Action on a request.
#[derive(Clone)]
pub enum Act {
    /// The request stays in the proxy until the ticket is released, or for this time.
    Hold(Arc<Ticket>, Duration),
    /// The request is forwarded after this delay.
    Delay(Duration),
    /// The request is forwarded; the answer is dropped.
    DropAnswer,
}

/// An action and the requests that it applies to.
#[derive(Clone)]
pub struct Rule {
    pub api: i16,
    /// Selects requests whose first text (for EndTxn: the transactional id) contains this.
    pub of: String,
    pub act: Act,
    /// Number of requests; afterwards the rule is removed.
    pub times: u32,
}

/// One held request, for use by the test.
#[derive(Default)]
pub struct Ticket {
    state: Mutex<Held>,
    changed: Condvar,
}

#[derive(Default)]
struct Held {
    held: bool,
    released: bool,
    answer: Option<i16>,
}

impl Ticket {
    pub fn new() -> Arc<Ticket> {
        Arc::new(Ticket::default())
    }

    fn wait(&self, within: Duration, done: impl Fn(&Held) -> bool) -> bool {
        let state = lock(&self.state);
        let (state, _) = self
            .changed
            .wait_timeout_while(state, within, |s| !done(s))
            .unwrap_or_else(PoisonError::into_inner);
        done(&state)
    }

    fn set(&self, change: impl FnOnce(&mut Held)) {
        change(&mut lock(&self.state));
        self.changed.notify_all();
    }

    /// Waits until the proxy holds a request.
    pub fn wait_held(&self, within: Duration) {
        assert!(
            self.wait(within, |s| s.held),
            "no request to hold came within {within:?}"
        );
    }

    /// Releases the request.
    pub fn release(&self) {
        self.set(|s| s.released = true);
    }

    /// Error code in the broker's answer to the released request.
    pub fn answer(&self, within: Duration) -> i16 {
        assert!(
            self.wait(within, |s| s.answer.is_some()),
            "the request was not answered within {within:?}"
        );
        lock(&self.state).answer.expect("just seen")
    }
}

/// Counters of all actions.
#[derive(Default)]
pub struct Counts {
    pub connections: AtomicU64,
    pub connections_dropped: AtomicU64,
    pub end_txn: AtomicU64,
    pub held: AtomicU64,
    /// Held requests that were delivered after their client had gone.
    pub orphans_delivered: AtomicU64,
    /// Held requests that the broker refused on late delivery.
    pub stale_refused: AtomicU64,
    pub answers_dropped: AtomicU64,
    pub delayed: AtomicU64,
    pub cuts: AtomicU64,
}

/// State of the connection path to one broker.
#[derive(Default)]
struct Link {
    /// No frame passes in this direction (to the broker, to the client) until this time.
    cut: [Option<Instant>; 2],
    /// Delay of every frame in both directions.
    latency: Duration,
    open: BTreeMap<u64, Arc<Conn>>,
}

/// The faults of all brokers of a cluster; the test drives them.
#[derive(Default)]
pub struct Faults {
    rules: Mutex<Vec<Rule>>,
    links: Mutex<BTreeMap<u32, Link>>,
    changed: Condvar,
    pub counts: Counts,
}

/// Direction of a frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Way {
    ToBroker = 0,
    ToClient = 1,
}

impl Faults {
    pub fn add(&self, rule: Rule) {
        lock(&self.rules).push(rule);
    }

    /// Holds the next `times` requests of kind `api` (EndTxn or another) of a transactional id
    /// until the ticket is released.
    pub fn hold(&self, api: i16, of: &str, times: u32) -> Arc<Ticket> {
        let ticket = Ticket::new();
        self.add(Rule {
            api,
            of: of.into(),
            act: Act::Hold(ticket.clone(), Duration::from_secs(600)),
            times,
        });

        ticket
    }

    /// Stops holding for this ticket and releases its held requests.
    pub fn forget(&self, ticket: &Arc<Ticket>) {
        lock(&self.rules).retain(|r| !matches!(&r.act, Act::Hold(t, _) if Arc::ptr_eq(t, ticket)));
        ticket.release();
    }

    /// Cuts one direction of a broker for a while.
    pub fn cut(&self, broker: u32, way: Way, time: Duration) {
        lock(&self.links).entry(broker).or_default().cut[way as usize] =
            Some(Instant::now() + time);
        self.counts.cuts.fetch_add(1, Ordering::Relaxed);
        self.changed.notify_all();
    }

    /// Delays every frame to and from a broker.
    pub fn set_latency(&self, broker: u32, latency: Duration) {
        lock(&self.links).entry(broker).or_default().latency = latency;
    }

    /// Closes each `nth` connection to a broker.
    pub fn drop_connections(&self, broker: u32, nth: usize) {
        let links = lock(&self.links);
        let Some(link) = links.get(&broker) else {
            return;
        };

        for conn in link.open.values().step_by(nth.max(1)) {
            conn.close_client();
            self.counts
                .connections_dropped
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Ends all faults: releases held requests and restores cut directions.
    pub fn heal(&self) {
        for rule in lock(&self.rules).drain(..) {
            if let Act::Hold(ticket, _) = rule.act {
                ticket.release();
            }
        }

        for link in lock(&self.links).values_mut() {
            (link.cut, link.latency) = ([None, None], Duration::ZERO);
            link.open
                .values()
                .flat_map(|c| lock(&c.tickets).values().cloned().collect::<Vec<_>>())
                .for_each(|t| t.release());
        }

        self.changed.notify_all();
    }

    fn judge(&self, frame: &Frame<'_>) -> Option<Act> {
        if frame.api == END_TXN {
            self.counts.end_txn.fetch_add(1, Ordering::Relaxed);
        }

        let mut rules = lock(&self.rules);
        let found = rules
            .iter()
            .position(|r| r.api == frame.api && frame.text.contains(&r.of))?;
        rules[found].times -= 1;
        let act = rules[found].act.clone();
        if rules[found].times == 0 {
            rules.remove(found);
        }

        Some(act)
    }

    /// Waits while the direction is cut, then for its latency.
    fn pass(&self, broker: u32, way: Way) {
        let mut links = lock(&self.links);
        loop {
            let link = links.entry(broker).or_default();
            let Some(left) = link.cut[way as usize]
                .and_then(|until| until.checked_duration_since(Instant::now()))
            else {
                let latency = link.latency;
                drop(links);
                std::thread::sleep(latency);
                return;
            };

            links = self
                .changed
                .wait_timeout(links, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The fields that the proxy reads from a request.
struct Frame<'a> {
    api: i16,
    correlation: i32,
    /// First text of the body, for an api with the transactional id in front.
    text: &'a str,
}

impl<'a> Frame<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Frame<'a>> {
        let short = |at: usize| Some(i16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?));
        let api = short(0)?;
        let correlation = i32::from_be_bytes(bytes.get(4..8)?.try_into().ok()?);
        let body = 10 + usize::try_from(short(8)?).unwrap_or(0);
        let plain = [PRODUCE, 24, ADD_OFFSETS_TO_TXN, END_TXN].contains(&api);
        let text = || {
            std::str::from_utf8(
                bytes.get(body + 2..body + 2 + usize::try_from(short(body)?).ok()?)?,
            )
            .ok()
        };

        Some(Frame {
            api,
            correlation,
            text: plain.then(text).flatten().unwrap_or(""),
        })
    }
}

struct Conn {
    client: TcpStream,
    broker: TcpStream,
    client_gone: AtomicBool,
    no_answer: Mutex<BTreeSet<i32>>,
    /// Held requests without an answer from the broker so far.
    tickets: Mutex<BTreeMap<i32, Arc<Ticket>>>,
}

impl Conn {
    fn close_client(&self) {
        // An already closed connection is fine.
        drop(self.client.shutdown(Shutdown::Both));
    }
}

/// The proxy of one broker.
pub struct Proxy {
    /// `127.0.0.1:port`, the address for clients.
    pub address: String,
    target: Arc<Mutex<Option<SocketAddr>>>,
}

impl Proxy {
    /// Listens at once, and refuses connections until a target is set. Its threads live as long as
    /// the process.
    pub fn start(broker: u32, faults: Arc<Faults>) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port for the proxy");
        let address = listener.local_addr().expect("its address").to_string();
        let target = Arc::new(Mutex::new(None));
        let to = target.clone();
        thread("proxy", move || {
            for client in listener.incoming().flatten() {
                let Some(address) = *lock(&to) else { continue };
                let faults = faults.clone();

                // A connect to a frozen broker may take long, and other clients must not wait for
                // it.
                thread("proxy-connect", move || {
                    carry(client, address, broker, faults)
                });
            }
        });

        Proxy { address, target }
    }

    pub fn set_target(&self, address: SocketAddr) {
        *lock(&self.target) = Some(address);
    }
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) {
    std::thread::Builder::new()
        .name(name.into())
        .stack_size(STACK)
        .spawn(work)
        .expect("a thread can be started");
}

fn carry(client: TcpStream, address: SocketAddr, broker: u32, faults: Arc<Faults>) {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let Ok(upstream) = TcpStream::connect_timeout(&address, Duration::from_secs(5)) else {
        return;
    };

    let (Ok(client_in), Ok(broker_in)) = (client.try_clone(), upstream.try_clone()) else {
        return;
    };

    if client
        .set_nodelay(true)
        .and(upstream.set_nodelay(true))
        .is_err()
    {
        return;
    }

    let id = NEXT.fetch_add(1, Ordering::Relaxed);
    let conn = Arc::new(Conn {
        client,
        broker: upstream,
        client_gone: AtomicBool::new(false),
        no_answer: Mutex::default(),
        tickets: Mutex::default(),
    });

    lock(&faults.links)
        .entry(broker)
        .or_default()
        .open
        .insert(id, conn.clone());
    faults.counts.connections.fetch_add(1, Ordering::Relaxed);
    let back = conn.clone();
    let back_faults = faults.clone();
    thread("proxy-answers", move || {
        answers(&back, broker_in, broker, &back_faults)
    });

    requests(&conn, client_in, broker, &faults);
    conn.client_gone.store(true, Ordering::Relaxed);

    // The broker must answer the held request before its connection closes. Otherwise the broker
    // might never read the request.
    let since = Instant::now();
    while !lock(&conn.tickets).is_empty() && since.elapsed() < LAST_ANSWER {
        std::thread::sleep(Duration::from_millis(5));
    }

    drop(conn.broker.shutdown(Shutdown::Both));
    if let Some(link) = lock(&faults.links).get_mut(&broker) {
        link.open.remove(&id);
    }
}

fn requests(conn: &Conn, mut from: TcpStream, broker: u32, faults: &Faults) {
    let mut to = &conn.broker;
    let mut bytes = Vec::new();
    while read_frame(&mut from, &mut bytes) {
        let Some(frame) = Frame::parse(&bytes[4..]) else {
            return;
        };

        match faults.judge(&frame) {
            None => {}
            Some(Act::Delay(time)) => {
                faults.counts.delayed.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(time);
            }
            Some(Act::DropAnswer) => {
                faults
                    .counts
                    .answers_dropped
                    .fetch_add(1, Ordering::Relaxed);
                lock(&conn.no_answer).insert(frame.correlation);
            }
            Some(Act::Hold(ticket, at_most)) => {
                faults.counts.held.fetch_add(1, Ordering::Relaxed);
                lock(&conn.tickets).insert(frame.correlation, ticket.clone());
                ticket.set(|s| s.held = true);
                ticket.wait(at_most, |s| s.released);
                if gone(&conn.client) {
                    faults
                        .counts
                        .orphans_delivered
                        .fetch_add(1, Ordering::Relaxed);
                }
            }
        }

        faults.pass(broker, Way::ToBroker);
        if to.write_all(&bytes).is_err() {
            return;
        }
    }
}

/// True if the client has closed, even with unread data.
fn gone(client: &TcpStream) -> bool {
    let mut ask = libc::pollfd {
        fd: client.as_raw_fd(),
        events: libc::POLLRDHUP,
        revents: 0,
    };

    // SAFETY: polls one descriptor, without waiting. The reference keeps the descriptor open.
    unsafe { libc::poll(&mut ask, 1, 0) > 0 }
}

fn answers(conn: &Conn, mut from: TcpStream, broker: u32, faults: &Faults) {
    let mut to = &conn.client;
    let mut bytes = Vec::new();
    while read_frame(&mut from, &mut bytes) {
        let Some(correlation) = bytes
            .get(4..8)
            .and_then(|b| b.try_into().ok())
            .map(i32::from_be_bytes)
        else {
            break;
        };

        if let Some(ticket) = lock(&conn.tickets).remove(&correlation) {
            // After the correlation id: throttle time, then the error code.
            let code = bytes
                .get(12..14)
                .and_then(|b| b.try_into().ok())
                .map_or(-1, i16::from_be_bytes);
            if code != 0 {
                faults.counts.stale_refused.fetch_add(1, Ordering::Relaxed);
            }

            ticket.set(|s| s.answer = Some(code));
        }

        if lock(&conn.no_answer).remove(&correlation) {
            continue;
        }

        faults.pass(broker, Way::ToClient);
        if to.write_all(&bytes).is_err() && lock(&conn.tickets).is_empty() {
            break;
        }
    }

    // A connection closed by the broker gives no more answers.
    lock(&conn.tickets).clear();
    conn.close_client();
}

/// Reads a whole frame with its length; false at the end of the stream.
fn read_frame(from: &mut TcpStream, into: &mut Vec<u8>) -> bool {
    into.resize(4, 0);
    if from.read_exact(into).is_err() {
        return false;
    }

    let length = u32::from_be_bytes(into[..4].try_into().expect("four bytes")) as usize;
    if length > 128 << 20 {
        return false;
    }

    into.resize(4 + length, 0);
    from.read_exact(&mut into[4..]).is_ok()
}
