//! The coordinator of transactions, old protocol: what `TransactionCoordinator` does with requests
//! of clients that do not know the new one.

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

/// One transactional id.
pub struct Txn {
    pub pid: u64,
    pub epoch: u32,
    pub state: TxnState,
    pub partitions: Vec<TopicPartition>,
    pub groups: Vec<usize>,
    /// When it became `Ongoing`.
    pub since: u64,
    /// Markers not written yet.
    pub left: usize,
    /// Counts transactions that were begun; tells stale requests apart, for the coverage alone.
    pub serial: u64,
    pub broker: usize,
    pub loading_until: u64,
}

/// What a decision means for the rest of the cluster: markers to write.
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

    /// A new producer. With a transaction still open, that one is aborted under a new epoch, and
    /// the producer asks again.
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

    /// Aborts an open transaction under a new epoch, so that whoever opened it is refused from now
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

    /// Adds partitions or a group. True if this began a new transaction on what a finished one had
    /// left.
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

    /// A marker was written. True if it was the last one.
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

    /// What partition leaders and group coordinators ask before the first write of a transaction.
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
