//! Calls of a client to the responsible broker. After a timeout or a lost connection a call is sent
//! again on a new connection, as librdkafka does internally.

use super::super::cluster::net::{Cut, Owner, Target};
use super::super::cluster::{Code, Request, Response};
use super::super::process;
use super::super::timing::*;
use super::super::world::with;
use super::{Verdict, classify, wait_until};

/// Reason of a failed call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failed {
    Refused(Code),
    /// No answer came before the deadline.
    TimedOut,
}

pub struct Calls {
    process: usize,
    owner: Owner,
}

struct Call {
    request: Request,
    sent: Option<(u64, usize, u64)>,
    not_before: u64,
    end: Option<Result<Response, Failed>>,
}

impl Calls {
    pub fn of_producer(process: usize, producer: usize) -> Calls {
        Calls {
            process,
            owner: Owner::Producer(producer),
        }
    }

    pub fn of_consumer(process: usize, consumer: usize) -> Calls {
        Calls {
            process,
            owner: Owner::Consumer(consumer),
        }
    }

    pub fn one(&mut self, request: Request, deadline: u64) -> Result<Response, Failed> {
        self.many(vec![request], deadline)
            .pop()
            .expect("one call has one end")
    }

    /// Sends all requests at once; returns when each has ended. The first hard refusal ends all
    /// calls without an answer.
    pub fn many(&mut self, requests: Vec<Request>, deadline: u64) -> Vec<Result<Response, Failed>> {
        debug_assert_eq!(process::current(), self.process);
        let fresh = |request| Call {
            request,
            sent: None,
            not_before: 0,
            end: None,
        };

        let mut calls: Vec<Call> = requests.into_iter().map(fresh).collect();
        with(|w| w.processes[self.process].mailbox.clear());
        loop {
            let wake = with(|w| {
                for (token, result) in std::mem::take(&mut w.processes[self.process].mailbox) {
                    let Some(call) = calls
                        .iter_mut()
                        .find(|c| c.sent.is_some_and(|(t, ..)| t == token))
                    else {
                        continue;
                    };

                    call.sent = None;
                    match result {
                        Ok(Response::Refused(code)) if classify(code) == Verdict::Again => {
                            let wait = if code == Code::Concurrent {
                                20 * MS
                            } else {
                                w.rng.between(5 * MS, 30 * MS)
                            };

                            call.not_before = w.now + wait;
                        }
                        Ok(Response::Refused(code)) => call.end = Some(Err(Failed::Refused(code))),
                        Ok(response) => call.end = Some(Ok(response)),
                        Err(Cut) => call.not_before = w.now + w.rng.between(MS, 50 * MS),
                    }
                }

                let refused = calls.iter().find_map(|c| match c.end {
                    Some(Err(failed)) => Some(failed),
                    _ => None,
                });

                let mut wake = deadline;
                for call in calls.iter_mut().filter(|c| c.end.is_none()) {
                    if let Some(failed) = refused {
                        call.end = Some(Err(failed));
                    } else if w.now >= deadline {
                        call.end = Some(Err(Failed::TimedOut));
                    }

                    if call.end.is_some() {
                        continue;
                    }

                    if let Some((_, connection, at)) = call.sent
                        && w.now >= at + REQUEST_TIMEOUT
                    {
                        // librdkafka closes the connection of a timed-out request, and tries again
                        // on another connection.
                        w.cut(connection);
                        call.sent = None;
                    }

                    if call.sent.is_none() && w.now >= call.not_before {
                        let broker = w.cluster.home(&call.request);
                        match w.connect(self.owner, broker) {
                            Some(connection) => {
                                let token = w.send(
                                    connection,
                                    Target::Process(self.process),
                                    call.request.clone(),
                                );
                                call.sent = Some((token, connection, w.now));
                            }
                            None => call.not_before = w.now + 50 * MS,
                        }
                    }

                    wake = wake.min(
                        call.sent
                            .map_or(call.not_before, |(_, _, at)| at + REQUEST_TIMEOUT),
                    );
                }

                wake
            });

            if calls.iter().all(|c| c.end.is_some()) {
                return calls
                    .into_iter()
                    .map(|c| c.end.expect("just looked"))
                    .collect();
            }

            wait_until(wake);
        }
    }
}
