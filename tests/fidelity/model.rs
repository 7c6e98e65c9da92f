//! The scripts on the model.

use std::cell::RefCell;
use std::rc::Rc;

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{Committed, Limits, Log, StartOffset};

use super::client::rpc::{Calls, Failed};
use super::client::{SimLog, pause};
use super::cluster::group::Claim;
use super::cluster::{Code, OffsetCommit, Produce, RecordsBox, Request, Response};
use super::conformance::{INPUT, OUTPUT, plain, table, tp};
use super::process;
use super::scripts::Side;
use super::timing::*;
use super::world::{Producer, with};

struct Open {
    txn: usize,
    producer: usize,
    pid: u64,
    epoch: u32,
    sequences: [u32; 2],
    /// Partitions that the client believes to be in its transaction.
    added: [bool; 2],
}

pub struct Model {
    open: Vec<Open>,
    group: usize,
}

/// Runs a script on a new cluster.
pub fn observe(script: fn(&mut dyn Side) -> Vec<String>) -> Vec<String> {
    run(move |m| script(m))
}

/// Runs any code on a new cluster.
pub fn run(script: impl FnOnce(&mut Model) -> Vec<String> + 'static) -> Vec<String> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let out = seen.clone();
    super::run::script(&table(""), move || {
        let group = with(|w| {
            for topic in [INPUT, OUTPUT] {
                let spec = w.table.spec(topic).clone();
                w.cluster.make(topic, &spec, 2);
            }

            w.cluster.group("group", &[INPUT])
        });

        *out.borrow_mut() = script(&mut Model {
            open: Vec::new(),
            group,
        });
    });

    seen.take()
}

impl Model {
    fn call(&mut self, producer: usize, request: Request) -> Result<Response, Failed> {
        let deadline = with(|w| w.now) + 5 * SECOND;
        Calls::of_producer(process::current(), self.open[producer].producer).one(request, deadline)
    }

    fn end(&mut self, producer: usize, commit: bool) -> String {
        let Open {
            txn, pid, epoch, ..
        } = self.open[producer];
        kind(self.call(
            producer,
            Request::EndTxn {
                txn,
                pid,
                epoch,
                serial: 0,
                commit,
            },
        ))
    }

    fn bounds(&self, partition: u32) -> ports::Bounds {
        SimLog.bounds(tp(OUTPUT, partition)).expect("bounds")
    }
}

fn kind(result: Result<Response, Failed>) -> String {
    match result {
        Ok(_) => "ok".into(),
        Err(Failed::Refused(Code::ProducerFenced | Code::InvalidEpoch)) => "fenced".into(),
        Err(Failed::Refused(Code::UnknownMember)) => "unknown member".into(),
        Err(Failed::Refused(Code::InvalidTxnState)) => "invalid state".into(),
        Err(other) => format!("{other:?}"),
    }
}

impl Side for Model {
    fn open(&mut self, id: &str) -> usize {
        let (txn, producer) = with(|w| {
            w.producers.push(Producer {
                suspect: false,
                busy: true,
                alive: true,
            });

            (w.cluster.txn(id), w.producers.len() - 1)
        });

        self.open.push(Open {
            txn,
            producer,
            pid: 0,
            epoch: 0,
            sequences: [0; 2],
            added: [false; 2],
        });

        let n = self.open.len() - 1;
        match self.call(n, Request::Init { txn }) {
            Ok(Response::Producer { pid, epoch }) => {
                (self.open[n].pid, self.open[n].epoch) = (pid, epoch)
            }
            other => panic!("{other:?}"),
        }

        n
    }

    fn begin(&mut self, producer: usize) -> String {
        self.open[producer].added = [false; 2];
        "ok".into()
    }

    fn send(&mut self, producer: usize, partition: u32, value: &str) -> String {
        let at = tp(OUTPUT, partition);
        let Open {
            txn,
            pid,
            epoch,
            sequences,
            ..
        } = &mut self.open[producer];

        let txn = *txn;
        let pid = *pid;
        let epoch = *epoch;
        let sequence = sequences[partition as usize];
        sequences[partition as usize] += 1;
        let parts: Rc<[TopicPartition]> = [at].into();
        if !std::mem::replace(&mut self.open[producer].added[partition as usize], true)
            && let Err(failed) = self.call(
                producer,
                Request::AddPartitions {
                    txn,
                    pid,
                    epoch,
                    serial: 0,
                    parts,
                },
            )
        {
            return kind(Err(failed));
        }

        let mut records = Records::new();
        records.push(&plain(at, value));
        let records = Rc::new(RecordsBox(records));
        let batch = Produce {
            txn,
            pid,
            epoch,
            sequence,
            transactional: true,
            at,
            records,
            picks: vec![0],
        };

        kind(self.call(producer, Request::Produce(Rc::new(batch))))
    }

    fn offset(&mut self, producer: usize, next: u64, as_stranger: bool) -> String {
        let Open {
            txn, pid, epoch, ..
        } = self.open[producer];
        let group = self.group;
        if let Err(failed) = self.call(
            producer,
            Request::AddOffsets {
                txn,
                pid,
                epoch,
                serial: 0,
                group,
            },
        ) {
            return kind(Err(failed));
        }

        let generation = if as_stranger { 1 } else { -1 };
        let claim = Claim {
            instance: 7,
            member: 99,
            generation,
        };

        let commit = OffsetCommit {
            txn,
            pid,
            epoch,
            group,
            claim,
            offsets: vec![(tp(INPUT, 0), next)],
        };

        kind(self.call(producer, Request::TxnOffsets(Rc::new(commit))))
    }

    fn commit(&mut self, producer: usize) -> String {
        self.end(producer, true)
    }

    fn abort(&mut self, producer: usize) -> String {
        self.end(producer, false)
    }

    fn visible(&mut self, partition: u32) -> String {
        let mut reader = SimLog
            .reader(OUTPUT, &[(partition, StartOffset::Start)], false)
            .expect("a reader");
        let mut records = Records::new();
        let limits = Limits {
            records: 100,
            bytes: 1 << 20,
            age: std::time::Duration::from_millis(1),
        };

        while !reader.caught_up() {
            reader
                .poll(std::time::Duration::from_millis(10), limits, &mut records)
                .expect("reading works");
        }

        let values: Vec<_> = records
            .iter()
            .map(|r| String::from_utf8_lossy(r.value.unwrap_or_default()).into_owned())
            .collect();
        format!("[{}]", values.join(","))
    }

    fn settle(&mut self, partition: u32) {
        while self.bounds(partition).stable_end != self.bounds(partition).end
            || matches!(self.committed().as_str(), "pending")
        {
            pause(MS);
        }
    }

    fn ends(&mut self, partition: u32) -> String {
        let b = self.bounds(partition);
        format!(
            "{}, {}",
            if b.stable_end == b.end {
                "decided"
            } else {
                "undecided"
            },
            b.end
        )
    }

    fn committed(&mut self) -> String {
        let found = match with(|w| w.cluster.groups[self.group].fetch(&[tp(INPUT, 0)])) {
            Some(offsets) => Committed::Stable(offsets),
            None => Committed::Pending,
        };

        match found {
            Committed::Pending => "pending".into(),
            Committed::Stable(offsets) => offsets[0].map_or("none".into(), |o| o.to_string()),
        }
    }

    fn outlive_the_timeout(&mut self, partition: u32) {
        pause(TXN_TIMEOUT);
        self.settle(partition);
    }
}
