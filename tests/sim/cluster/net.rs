//! Connections: queues in both directions. Requests on one connection arrive in order after some
//! time, even if the client closed the connection long ago.

use super::super::coverage::Kind;
use super::super::timing::{MS, SECOND};
use super::super::world::{Event, World};
use super::{Request, Response};

/// Receiver of an answer.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Target {
    Process(usize),
    Consumer(usize),
}

/// Client that owns a connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Owner {
    Producer(usize),
    Consumer(usize),
}

pub struct Connection {
    pub open: bool,
    pub broker: usize,
    pub owner: Owner,
    /// Arrival times of the last request and of the last answer.
    last: (u64, u64),
    /// Requests without an answer so far.
    waiting: Vec<(Target, u64)>,
}

#[derive(Debug)]
pub struct Frame {
    pub connection: usize,
    pub to: Target,
    pub token: u64,
    pub request: Request,
    /// True if the drawn delay exceeds the client's timeout.
    pub held: bool,
}

/// The connection was cut, so no answer will come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Cut;

impl World {
    /// Returns the open connection of a client to a broker, or opens one. None if the broker is
    /// unreachable.
    pub fn connect(&mut self, owner: Owner, broker: usize) -> Option<usize> {
        if !self.cluster.brokers[broker].up {
            return None;
        }

        if let Some(i) = self
            .connections
            .iter()
            .rposition(|c| c.open && c.owner == owner && c.broker == broker)
        {
            return Some(i);
        }

        self.connections.push(Connection {
            open: true,
            broker,
            owner,
            last: (0, 0),
            waiting: Vec::new(),
        });

        Some(self.connections.len() - 1)
    }

    /// Sends a request. The answer goes to `to` under the returned token.
    pub fn send(&mut self, connection: usize, to: Target, request: Request) -> u64 {
        self.tokens += 1;
        let token = self.tokens;
        let f = self.plan.faults;
        let mut delay = self.rng.between(50, 400);
        let mut held = false;
        if self.rng.ppm(f.slow_ppm) {
            delay = self.rng.skewed(MS, 300 * MS);
            self.cover(Kind::Slow);
        }

        let end = matches!(
            request,
            Request::EndTxn { .. }
                | Request::TxnOffsets(_)
                | Request::AddPartitions { .. }
                | Request::Produce(_)
        );

        if end && self.rng.ppm(f.hold_ppm) {
            delay = self.rng.between(850 * MS, 3 * SECOND);
            held = true;
            self.cover(Kind::Held);
        }

        if matches!(request, Request::EndTxn { .. })
            && let Some(us) = self.hold_end.take()
        {
            delay = us;
        }

        let lost = self.rng.ppm(f.lost_ppm);
        let cut = lost || self.rng.ppm(f.cut_ppm);
        let now = self.now;
        let c = &mut self.connections[connection];
        c.waiting.push((to, token));
        c.last.0 = c.last.0.max(now + delay) + 1;
        let arrival = c.last.0;
        self.trace(|| {
            format!(
                "{to:?} sends {request:?} on connection {connection}, to arrive in {} us",
                arrival - now
            )
        });

        if lost {
            self.cover(Kind::RequestLost);
        } else {
            self.schedule(
                arrival,
                Event::Arrive(Box::new(Frame {
                    connection,
                    to,
                    token,
                    request,
                    held,
                })),
            );
        }

        if cut {
            let at = now + self.rng.between(20, 600);
            self.schedule(at, Event::Cut(connection));
        }

        token
    }

    pub fn answer(&mut self, connection: usize, to: Target, token: u64, response: Response) {
        let f = self.plan.faults;
        if self.rng.ppm(f.answer_lost_ppm) {
            self.cover(Kind::AnswerLost);
            return;
        }

        let mut delay = self.rng.between(50, 400);
        if self.rng.ppm(f.slow_ppm) {
            delay = self.rng.skewed(MS, 300 * MS);
        }

        let now = self.now;
        let c = &mut self.connections[connection];
        c.last.1 = c.last.1.max(now + delay) + 1;
        let at = c.last.1;
        self.schedule(
            at,
            Event::Answer {
                connection,
                to,
                token,
                response,
            },
        );
    }

    pub fn answered(&mut self, connection: usize, to: Target, token: u64, response: Response) {
        let c = &mut self.connections[connection];
        if !c.open {
            return;
        }

        c.waiting.retain(|w| *w != (to, token));
        self.trace(|| format!("{to:?} gets {response:?}"));
        self.hand_over(to, token, Ok(response));
    }

    /// Closes a connection at the client. Sent requests stay in flight. Each call that waits for an
    /// answer gets an error.
    pub fn cut(&mut self, connection: usize) {
        let c = &mut self.connections[connection];
        if !c.open {
            return;
        }

        c.open = false;
        let owner = c.owner;
        let waiting = std::mem::take(&mut c.waiting);
        self.cover(Kind::Disconnect);
        self.trace(|| format!("connection {connection} of {owner:?} is cut"));
        if let Owner::Producer(p) = owner {
            self.suspicion(p);
        }

        for (to, token) in waiting {
            self.hand_over(to, token, Err(Cut));
        }
    }

    fn hand_over(&mut self, to: Target, token: u64, result: Result<Response, Cut>) {
        match to {
            Target::Process(p) => {
                self.processes[p].mailbox.push((token, result));
                self.wake(p, 0);
            }
            Target::Consumer(c) => self.consumer_hears(c, token, result),
        }
    }
}
