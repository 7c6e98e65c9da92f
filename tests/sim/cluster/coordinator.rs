//! The transaction coordinator with the old protocol: the behaviour of Kafka's
//! `TransactionCoordinator` towards clients without the new protocol.

use ports::topics::TopicPartition;

use super::Code;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TxnState {
    Empty,
    Ongoing,
    PrepareCommit,
    PrepareAbort,
    CompleteCommit,
    CompleteAbort,
}

pub struct Txn {
    pub pid: u64,
    pub epoch: u32,
    pub state: TxnState,
    pub partitions: Vec<TopicPartition>,
    pub groups: Vec<usize>,
    /// Time at which the state became `Ongoing`.
    pub since: u64,
    /// Number of markers still to write.
    pub left: usize,
    /// Number of transactions begun. Only the coverage uses the number, to recognise stale
    /// requests.
    pub serial: u64,
    pub broker: usize,
    pub loading_until: u64,
}

/// Markers that a decision makes the cluster write.
pub struct Decided {
    pub commit: bool,
    pub pid: u64,
    pub epoch: u32,
}

impl Txn {
    pub fn new(pid: u64, broker: usize) -> Txn {
        Txn {
            pid,
            epoch: 0,
            state: TxnState::Empty,
            partitions: Vec::new(),
            groups: Vec::new(),
            since: 0,
            left: 0,
            serial: 0,
            broker,
            loading_until: 0,
        }
    }

    /// Initialises a producer. An open transaction is first aborted under a new epoch, and the
    /// producer must ask again.
    pub fn init(&mut self) -> (Result<u32, Code>, Option<Decided>) {
        match self.state {
            TxnState::PrepareAbort | TxnState::PrepareCommit => (Err(Code::Concurrent), None),
            TxnState::Ongoing => (Err(Code::Concurrent), Some(self.fence())),
            TxnState::Empty | TxnState::CompleteAbort | TxnState::CompleteCommit => {
                self.epoch += 1;
                self.state = TxnState::Empty;
                self.partitions.clear();
                self.groups.clear();
                (Ok(self.epoch), None)
            }
        }
    }

    /// Aborts an open transaction under a new epoch. The broker refuses the old producer from then
    /// on.
    pub fn fence(&mut self) -> Decided {
        self.epoch += 1;
        self.decide(false)
    }

    fn decide(&mut self, commit: bool) -> Decided {
        self.state = if commit {
            TxnState::PrepareCommit
        } else {
            TxnState::PrepareAbort
        };

        self.left = self.partitions.len() + self.groups.len();
        Decided {
            commit,
            pid: self.pid,
            epoch: self.epoch,
        }
    }

    fn check(&self, pid: u64, epoch: u32) -> Result<(), Code> {
        if pid != self.pid {
            return Err(Code::InvalidMapping);
        }

        if epoch != self.epoch {
            Err(Code::ProducerFenced)
        } else {
            Ok(())
        }
    }

    /// Adds partitions or a group. True if this call began a new transaction after a finished one.
    pub fn add(
        &mut self,
        pid: u64,
        epoch: u32,
        parts: &[TopicPartition],
        group: Option<usize>,
        now: u64,
    ) -> Result<bool, Code> {
        self.check(pid, epoch)?;
        let mut readded = false;
        match self.state {
            TxnState::PrepareCommit | TxnState::PrepareAbort => return Err(Code::Concurrent),
            TxnState::Ongoing => {}
            TxnState::Empty | TxnState::CompleteCommit | TxnState::CompleteAbort => {
                readded = self.state != TxnState::Empty;
                self.partitions.clear();
                self.groups.clear();
                self.since = now;
                self.serial += 1;
                self.state = TxnState::Ongoing;
            }
        }

        for at in parts {
            if !self.partitions.contains(at) {
                self.partitions.push(*at);
            }
        }

        if let Some(group) = group.filter(|g| !self.groups.contains(g)) {
            self.groups.push(group);
        }

        Ok(readded)
    }

    pub fn end(&mut self, pid: u64, epoch: u32, commit: bool) -> Result<Option<Decided>, Code> {
        self.check(pid, epoch)?;
        match (self.state, commit) {
            (TxnState::Ongoing, _) => Ok(Some(self.decide(commit))),
            (TxnState::CompleteCommit, true) | (TxnState::CompleteAbort, false) => Ok(None),
            (TxnState::PrepareCommit, true) | (TxnState::PrepareAbort, false) => {
                Err(Code::Concurrent)
            }
            _ => Err(Code::InvalidTxnState),
        }
    }

    /// A marker was written. True for the last marker.
    pub fn marked(&mut self) -> bool {
        self.left -= 1;
        if self.left == 0 {
            self.state = if self.state == TxnState::PrepareCommit {
                TxnState::CompleteCommit
            } else {
                TxnState::CompleteAbort
            };
        }

        self.left == 0
    }

    /// Check that partition leaders and group coordinators request before the first write of a
    /// transaction.
    pub fn verify(
        &self,
        pid: u64,
        epoch: u32,
        at: Option<TopicPartition>,
        group: Option<usize>,
    ) -> Result<(), Code> {
        self.check(pid, epoch)?;
        let known = at.is_none_or(|at| self.partitions.contains(&at))
            && group.is_none_or(|g| self.groups.contains(&g));
        if self.state == TxnState::Ongoing && known {
            Ok(())
        } else {
            Err(Code::InvalidTxnState)
        }
    }
}
