//! A group member: reads its assigned partitions and writes in transactions.

use std::sync::{Arc, Condvar};
use std::time::{Duration, Instant};

use ports::records::Records;
use ports::topics::TopicPartition;
use ports::{
    Limits, LogError, Member, MemberInput, Polled, Rejection, Transaction, TransactionOutcome,
};

use super::LogHandle;
use super::core::WriteRefused;
use super::fetch::{ReadPosition, fetch};
use super::groups::{Fenced, Ticket};

pub(crate) struct LocalMember {
    handle: Arc<LogHandle>,
    ticket: Ticket,
    inputs: Vec<MemberInput>,
    /// Generation of the partitions from the last `poll`. `None` after a revocation.
    generation: Option<u64>,
    assigned: Vec<TopicPartition>,
    positions: Vec<ReadPosition>,
    /// Index of the position where the next poll begins.
    first: usize,
    bell: Arc<Condvar>,
}

impl LocalMember {
    pub(crate) fn new(handle: Arc<LogHandle>, ticket: Ticket, inputs: Vec<MemberInput>) -> Self {
        let bell = Arc::default();
        LocalMember {
            handle,
            ticket,
            inputs,
            generation: None,
            assigned: Vec::new(),
            positions: Vec::new(),
            first: 0,
            bell,
        }
    }

    fn fenced(&self) -> LogError {
        LogError::Fenced(self.fenced_text())
    }

    fn fenced_text(&self) -> String {
        format!(
            "{} was started again and this is the older one; stop it",
            self.ticket.instance
        )
    }
}

impl Member for LocalMember {
    fn poll(
        &mut self,
        wait: Duration,
        limits: Limits,
        into: &mut Records,
    ) -> Result<Polled, LogError> {
        let handle = self.handle.clone();
        let core = &handle.core;
        let until = Instant::now() + wait;
        let mut state = core.state();
        loop {
            state.check().map_err(LogError::Io)?;
            let due = state.groups.due(&self.ticket.group);
            if due.is_some_and(|due| due <= Instant::now()) {
                drop(state);
                core.exclusively(|state| {
                    ((), state.groups.expire(&self.ticket.group, Instant::now()))
                });

                state = core.state();
            }

            let generation = state
                .groups
                .generation(&self.ticket)
                .map_err(|Fenced| self.fenced())?;
            if self.generation.is_some_and(|mine| mine != generation) {
                self.generation = None;
                self.assigned.clear();
                self.positions.clear();
                return Ok(Polled::Revoked { lost: false });
            }

            if self.generation.is_none() {
                let partitions = state
                    .groups
                    .partitions(&self.ticket)
                    .map_err(|Fenced| self.fenced())?;
                self.assigned = partitions
                    .iter()
                    .filter_map(|(number, p)| {
                        handle
                            .topic_id(&state, *number)
                            .map(|t| TopicPartition::new(t, *p))
                    })
                    .collect();

                self.generation = Some(generation);
                return Ok(Polled::Assigned(self.assigned.clone()));
            }

            if self.positions.iter().any(|p| p.has_more(&state)) {
                break;
            }

            let wake = due.map_or(until, |due| due.min(until));
            let parts = self.positions.iter().map(|p| p.part);
            let in_time;
            (state, in_time) = core.sleep(state, &self.bell, parts, wake);
            if !in_time && wake == until {
                return Ok(Polled::Records);
            }
        }

        drop(state);
        self.first = (self.first + 1) % self.positions.len();
        fetch(core, &mut self.positions, self.first, limits, into)?;
        Ok(Polled::Records)
    }

    fn resume(&mut self, positions: &[(TopicPartition, u64)]) -> Result<(), LogError> {
        for (at, offset) in positions {
            if !self.assigned.contains(at) {
                return Err(LogError::Invalid(format!(
                    "{} is not assigned to {}",
                    self.handle.table.show(*at),
                    self.ticket.instance
                )));
            }

            let (part, place, end) = self.handle.part(*at)?;
            if *offset > end {
                let at = self.handle.table.show(*at);
                return Err(LogError::Invalid(format!(
                    "{at} ends at offset {end} and cannot be read from {offset}; was its log replaced?"
                )));
            }

            let headers = self.inputs.iter().any(|i| i.topic == at.topic && i.headers);
            self.positions.retain(|p| p.at != *at);
            self.positions
                .push(ReadPosition::new(*at, part, place, *offset, headers));
        }

        Ok(())
    }

    fn skip_partitions(&mut self, partitions: &[TopicPartition]) {
        self.positions
            .iter_mut()
            .for_each(|p| p.passed_over = partitions.contains(&p.at));
    }

    fn transact(&mut self, tx: &Transaction<'_>) -> TransactionOutcome {
        // A refused record will be refused again at a retry.
        let packed = match self.handle.pack(tx.outputs) {
            Ok(packed) => packed,
            Err(e @ LogError::Invalid(_)) => {
                return TransactionOutcome::Rejected(Rejection {
                    reason: "embedded log".into(),
                    text: e.to_string(),
                });
            }
            Err(e) => return TransactionOutcome::NotCommitted(e.to_string()),
        };

        let offsets: Result<Vec<_>, _> = tx
            .offsets
            .iter()
            .map(|(at, offset)| self.handle.part(*at).map(|(part, ..)| (part, *offset)))
            .collect();
        let offsets = match offsets {
            Ok(offsets) => offsets,
            Err(e) => return TransactionOutcome::NotCommitted(e.to_string()),
        };

        let ids: Vec<_> = packed.iter().map(|(at, part, _)| (*at, *part)).collect();
        let batches = packed
            .into_iter()
            .map(|(_, part, builder)| (part, builder))
            .collect();

        // An unknown generation becomes 0, which never matches a real generation. `commit` still
        // reports a fence.
        let generation = self.generation.unwrap_or(0);
        match self
            .handle
            .core
            .commit(batches, Some((&self.ticket, generation)), &offsets)
        {
            Ok(appended) => {
                let appended = ids
                    .into_iter()
                    .zip(appended)
                    .map(|((at, _), (_, last))| (at, last))
                    .collect();
                TransactionOutcome::Committed {
                    appended,
                    suspect: false,
                }
            }
            Err(WriteRefused::Fenced) => TransactionOutcome::Fenced(self.fenced_text()),
            Err(WriteRefused::Stale) => TransactionOutcome::NotCommitted(
                "the group's partitions were dealt out anew".to_string(),
            ),
            Err(WriteRefused::Broken(why)) => TransactionOutcome::Unknown(why),
        }
    }

    fn suspect(&self) -> bool {
        false
    }
}

impl Drop for LocalMember {
    fn drop(&mut self) {
        let mut state = self.handle.core.state();
        state.groups.leave(&self.ticket, Instant::now());
        state.wake_groups();
    }
}
