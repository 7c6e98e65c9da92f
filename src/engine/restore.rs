//! Bringing a task's store to the group's committed position, or finding that it is there already.
//!
//! A store is right when its meta record's offsets equal the group's *stable committed* offsets. If it is behind (a crash between commit and
//! store, another machine, a wiped disk), the changelog is replayed from where the store ends until the meta record with those offsets comes by.
//! No end of a partition is trusted: markers and compaction leave gaps, and a predecessor's last transaction may become readable late. With our own
//! transactional id everything is decided before the restore begins; after a take-over from another instance the wait is bounded.
//!
//! A store that cannot be right (damaged, ahead of the log, another digest) is put aside and rebuilt from the start, once; if the changelog
//! itself does not lead to the committed position, the task refuses to run.

use std::time::Duration;

use super::crash::{self, Point};
use super::digest::{self, Digest};
use super::meta::{META_KEY, Meta, StoreMeta};
use super::mutants::{self, Mutant};
use super::ports::{Clock, Committed, From, Limits, Log, LogError, Member, Reader, StateStore, StoreError, Stores};
use super::records::Records;
use super::role::RoleSpec;
use super::topics::{TopicPartition, TopicTable};

/// Why a restore ended badly.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// The log failed.
    #[error(transparent)]
    Log(#[from] LogError),
    /// The local store failed in a way that putting it aside does not help.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// State and committed position do not belong together, if what was asked is still true.
    #[error("{0}")]
    Doubt(String),
    /// They do not, although they were compared again and again for as long as a predecessor's transaction may take.
    #[error("{0}")]
    Stop(String),
}

/// How far a restore is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Changelog offset reached.
    pub at: u64,
    /// Changelog end when it began.
    pub end: u64,
    /// Records applied so far.
    pub records: u64,
}

/// A finished restore.
pub struct Restored {
    /// The store, verified.
    pub store: Box<dyn StateStore>,
    /// Its position, which is the group's.
    pub meta: Meta,
    /// Where in the changelog that position's meta record is; none before the first transaction.
    pub changelog_offset: Option<u64>,
    /// True if the store was right as it was and no changelog was read.
    pub untouched: bool,
}

/// What a restore works with.
pub struct Env<'a> {
    /// The log.
    pub log: &'a dyn Log,
    /// Names of topics, for messages.
    pub topics: &'a TopicTable,
    /// What the role is.
    pub spec: &'a RoleSpec,
    /// Local stores.
    pub stores: &'a dyn Stores,
    /// For the bounded wait.
    pub clock: &'a dyn Clock,
    /// How long a predecessor's pending transaction is waited for.
    pub takeover_wait: Duration,
    /// Longest slice of work before the caller gets its turn again.
    pub slice: Duration,
}

/// A restore in progress; driven by [`Restore::step`].
pub struct Restore {
    task: u32,
    inputs: Vec<TopicPartition>,
    /// When the wait was last looked at, and how long it is by then.
    looked_us: u64,
    waited: Duration,
    target: Option<Meta>,
    work: Option<Work>,
    distrusted: Option<String>,
    quarantined: Option<String>,
    /// Whether it was said that somebody else holds the store.
    told: bool,
    /// For display.
    pub progress: Progress,
}

/// An open store on its way.
struct Work {
    store: Box<dyn StateStore>,
    /// What the store contains; none while it is empty.
    have: Option<StoreMeta>,
    reader: Box<dyn Reader>,
    /// Digest by arithmetic, while every step started from a verified state.
    digest: Option<Digest>,
}

impl Restore {
    /// For a task that was just assigned. `distrusted`: why its store must be rebuilt, if the last incarnation found it damaged.
    pub fn new(task: u32, inputs: Vec<TopicPartition>, distrusted: Option<String>, clock: &dyn Clock) -> Restore {
        let (looked_us, waited, progress) = (clock.now_us(), Duration::ZERO, Progress::default());
        Restore { task, inputs, looked_us, waited, target: None, work: None, distrusted, quarantined: None, told: false, progress }
    }

    /// Does a slice of work; `Some` when the task may run.
    pub fn step(&mut self, env: &Env<'_>, member: &mut dyn Member) -> Result<Option<Restored>, RestoreError> {
        if self.work.is_none() {
            let Committed::Stable(offsets) = member.committed(&self.inputs)? else {
                if self.waited(env) >= env.takeover_wait {
                    let why =
                        "committed offsets stay pending: a predecessor's transaction hangs in the cluster, or its coordinator is down";
                    return Err(LogError::Unavailable(format!("{} task {}: {why}", env.spec.name, self.task)).into());
                }
                return self.ask_again(env).map(|()| None);
            };
            match self.begin(env, &offsets) {
                Ok(None) => {}
                // A predecessor on this machine that was fenced and is on its way out. Meanwhile the member goes on being polled.
                // Twice as long: a predecessor that was frozen first looks whether we are alive, and holds on to its directory until it knows.
                Err(RestoreError::Store(StoreError::Held(why))) if self.waited(env) < env.takeover_wait * 2 => {
                    if !std::mem::replace(&mut self.told, true) {
                        tracing::info!(role = env.spec.name, task = self.task, %why, "waiting for local state");
                    }
                    return self.ask_again(env).map(|()| None);
                }
                other => return self.or_start_over(env, other),
            }
        }
        let read = self.read_changelog(env);
        self.or_start_over(env, read)
    }

    /// Damage, wherever it shows, is answered by a rebuild.
    fn or_start_over(&mut self, env: &Env<'_>, result: Result<Option<Restored>, RestoreError>) -> Result<Option<Restored>, RestoreError> {
        match result {
            Err(RestoreError::Store(StoreError::Corrupt(why)) | RestoreError::Log(LogError::Corrupt(why))) => {
                self.start_over(env, &why).map(|()| None)
            }
            other => other,
        }
    }

    fn begin(&mut self, env: &Env<'_>, offsets: &[Option<u64>]) -> Result<Option<Restored>, RestoreError> {
        let changelog = TopicPartition::new(env.spec.changelog, self.task);
        let bounds = env.log.bounds(changelog)?;
        self.progress.end = bounds.end;
        if let Some(why) = self.distrusted.take() {
            return self.start_over(env, &why).map(|()| None);
        }
        crash::point(Point::RestoreOffsets);
        let store = env.stores.open(self.task)?;
        crash::point(Point::RestoreOpened);
        let have = match store.meta()? {
            Some(bytes) => Some(StoreMeta::decode(&bytes).map_err(StoreError::from)?),
            None => None,
        };
        if offsets.iter().all(Option::is_none) {
            return self.begin_fresh(env, store, have, bounds.end > bounds.start);
        }
        // An input that was never committed (added by a later version) begins at its start, like a fresh task's.
        let mut target = Vec::with_capacity(self.inputs.len());
        for (at, offset) in self.inputs.iter().zip(offsets) {
            let known = have.as_ref().and_then(|h| h.meta.next(*at));
            target.push((
                *at,
                match (offset, known) {
                    (Some(o), _) => *o,
                    (None, Some(o)) => {
                        return Err(self.mismatch(env, &format!("{} has no committed offset, but state has {o}", env.topics.show(*at))));
                    }
                    (None, None) => env.log.bounds(*at)?.start,
                },
            ));
        }
        self.target = Some(Meta { offsets: target, ..Meta::default() });
        if let Some(h) = have.as_ref().filter(|h| self.reached(&h.meta)) {
            if h.changelog_offset >= bounds.end {
                // The state is right, but who rebuilds it from that changelog would get another.
                let why = format!("state was last written at offset {} of a changelog that ends at {}", h.changelog_offset, bounds.end);
                drop(store);
                return if self.waited(env) < env.takeover_wait {
                    self.ask_again(env).map(|()| None)
                } else {
                    Err(self.mismatch(env, &why))
                };
            }
            if h.verified {
                let (meta, changelog_offset) = (self.completed(h.meta.clone()), Some(h.changelog_offset));
                return Ok(Some(Restored { store, meta, changelog_offset, untouched: true }));
            }
            // A predecessor got here and died before it could look at what it had.
            return self.finish(env, store, h.clone(), None);
        }
        let from = match &have {
            None => From::Start,
            Some(h) if h.changelog_offset >= bounds.end => {
                let why = format!("it ends at offset {} of a changelog that ends at {}", h.changelog_offset, bounds.end);
                drop(store);
                return self.start_over(env, &why).map(|()| None);
            }
            Some(h) if h.changelog_offset + 1 < bounds.start => {
                let why = format!("it ends at offset {} of a changelog that begins at {}", h.changelog_offset, bounds.start);
                drop(store);
                return self.start_over(env, &why).map(|()| None);
            }
            Some(h) => From::Offset(h.changelog_offset + 1),
        };
        let reader = env.log.reader(env.spec.changelog, &[(self.task, from)], false)?;
        crash::point(Point::RestoreReader);
        let digest = have.as_ref().filter(|h| h.verified).map(|h| h.meta.digest);
        self.work = Some(Work { store, have, reader, digest });
        Ok(None)
    }

    /// Nothing was ever committed: then there must be no state either, here or in the changelog.
    fn begin_fresh(
        &mut self,
        env: &Env<'_>,
        store: Box<dyn StateStore>,
        have: Option<StoreMeta>,
        changelog_used: bool,
    ) -> Result<Option<Restored>, RestoreError> {
        if let Some(h) = have {
            let why = format!("the group has no committed offsets, but local state contains {} transactions", h.meta.transaction);
            return Err(self.mismatch(env, &why));
        }
        if changelog_used {
            let mut reader = env.log.reader(env.spec.changelog, &[(self.task, From::Start)], false)?;
            let (mut records, deadline) = (Records::new(), env.clock.now_us() + env.takeover_wait.as_micros() as u64);
            while !reader.caught_up() && records.is_empty() && env.clock.now_us() < deadline {
                reader.poll(Duration::from_millis(50), limits(env), &mut records)?;
            }
            if !records.is_empty() {
                return Err(self.mismatch(env, "the group has no committed offsets, but the changelog contains state"));
            }
            if !reader.caught_up() {
                let name = env.topics.show(TopicPartition::new(env.spec.changelog, self.task)).to_string();
                return Err(LogError::Unavailable(format!("{name} cannot be read to its end, so nothing says that it is empty")).into());
            }
        }
        let offsets = self.inputs.iter().map(|at| Ok((*at, env.log.bounds(*at)?.start))).collect::<Result<_, LogError>>()?;
        Ok(Some(Restored { store, meta: Meta { offsets, ..Meta::default() }, changelog_offset: None, untouched: true }))
    }

    fn read_changelog(&mut self, env: &Env<'_>) -> Result<Option<Restored>, RestoreError> {
        let Some(mut work) = self.work.take() else { return Ok(None) };
        let until = env.clock.now_us() + env.slice.as_micros() as u64;
        let mut chunk = Records::new();
        loop {
            chunk.clear();
            work.reader.poll(Duration::from_millis(20), limits(env), &mut chunk)?;
            if self.apply(&mut work, &chunk)? {
                let have = work.have.take().expect("a meta record was just applied");
                return self.finish(env, work.store, have, work.digest);
            }
            if chunk.is_empty() && work.reader.caught_up() {
                if (mutants::on(Mutant::RestoreToStable) || mutants::on(Mutant::EndTrusted))
                    && let Some(have) = work.have.take()
                {
                    return self.finish(env, work.store, have, work.digest);
                }
                // Nothing more is readable, and the position was not there (yet).
                let stale = work.have.is_some() && self.quarantined.is_none();
                drop(work);
                if self.waited(env) < env.takeover_wait {
                    return self.ask_again(env).map(|()| None);
                }
                let why = "the changelog does not contain the state at the committed offsets";
                return if stale { self.start_over(env, why).map(|()| None) } else { Err(self.mismatch(env, why)) };
            }
            if env.clock.now_us() >= until {
                self.work = Some(work);
                return Ok(None);
            }
        }
    }

    /// Puts what was read into the store; true when the target's meta record was in it. Between meta records the store holds a state that never
    /// was, and says so (`verified`), which costs a crash in the middle a scan at the end but never more memory than a chunk.
    fn apply(&mut self, work: &mut Work, chunk: &Records) -> Result<bool, RestoreError> {
        if chunk.is_empty() {
            return Ok(false);
        }
        let mut latest: indexmap::IndexMap<&[u8], Option<&[u8]>, rustc_hash::FxBuildHasher> = indexmap::IndexMap::default();
        let mut meta = work.have.take().map(|h| h.meta).unwrap_or_default();
        let (mut last, mut reached) = (None, false);
        for r in chunk.iter() {
            self.progress.at = r.offset;
            self.progress.records += 1;
            last = Some(r.offset);
            if r.key == Some(META_KEY) {
                meta = Meta::decode(r.value.unwrap_or_default()).map_err(LogError::from)?;
                reached = self.reached(&meta);
                if reached {
                    break;
                }
            } else {
                latest.insert(r.key.unwrap_or_default(), r.value);
            }
        }
        let Some(changelog_offset) = last else { return Ok(false) };
        if let Some(mut digest) = work.digest {
            let mut old = Vec::new();
            for (key, value) in &latest {
                let before = if work.store.get(key, &mut old)? { digest::of(key, &old) } else { Digest::ZERO };
                digest = digest.replace(before, value.map_or(Digest::ZERO, |v| digest::of(key, v)));
            }
            work.digest = Some(digest);
        }
        let record = StoreMeta { changelog_offset, verified: reached && work.digest == Some(meta.digest), meta };
        work.store.write(&mut latest.iter().map(|(k, v)| (*k, *v)), &record.encode())?;
        work.have = Some(record);
        crash::point(if reached { Point::RestoreReached } else { Point::RestoreChunk });
        Ok(reached)
    }

    /// The position is right; now the content must be.
    fn finish(
        &mut self,
        env: &Env<'_>,
        mut store: Box<dyn StateStore>,
        mut record: StoreMeta,
        digest: Option<Digest>,
    ) -> Result<Option<Restored>, RestoreError> {
        if !record.verified {
            let digest = match digest {
                Some(d) => d,
                None => scan_digest(&*store)?,
            };
            if digest != record.meta.digest {
                let why = format!("its digest is {digest} where the changelog says {}", record.meta.digest);
                drop(store);
                return self.start_over(env, &why).map(|()| None);
            }
            record.verified = true;
            crash::point(Point::RestoreChecked);
            store.write(&mut std::iter::empty(), &record.encode())?;
            crash::point(Point::RestoreVerified);
        }
        let (meta, changelog_offset) = (self.completed(record.meta), Some(record.changelog_offset));
        Ok(Some(Restored { store, meta, changelog_offset, untouched: false }))
    }

    /// Puts the store aside and begins again from the start of the changelog; the second time it stops.
    fn start_over(&mut self, env: &Env<'_>, why: &str) -> Result<(), RestoreError> {
        self.work = None;
        if let Some(first) = &self.quarantined {
            let text = format!("rebuilding did not help (first: {first}; now: {why})");
            return Err(self.mismatch(env, &text));
        }
        crash::point(Point::RestoreDamaged);
        let place = env.stores.quarantine(self.task)?;
        crash::point(Point::RestoreQuarantined);
        tracing::warn!(task = self.task, role = env.spec.name, %why, %place, "local state put aside; rebuilding it from the changelog");
        self.quarantined = Some(why.to_string());
        (self.looked_us, self.waited) = (env.clock.now_us(), Duration::ZERO);
        self.progress = Progress::default();
        Ok(())
    }

    fn reached(&self, meta: &Meta) -> bool {
        // Positions that were never committed are not in an older meta; the target has their start.
        // In the middle of a rebuild there may be no meta yet, and no position is not the right one.
        !meta.offsets.is_empty() && self.target.as_ref().is_some_and(|t| meta.offsets.iter().all(|(at, o)| t.next(*at) == Some(*o)))
    }

    /// The meta to run from: the state's, with positions for inputs it does not know yet.
    fn completed(&self, mut meta: Meta) -> Meta {
        if let Some(t) = &self.target {
            meta.offsets = t.offsets.clone();
        }
        meta
    }

    /// How long it has waited, looking again all the time. A process that stood still has not.
    fn waited(&mut self, env: &Env<'_>) -> Duration {
        let now = env.clock.now_us();
        let since = Duration::from_micros(now - std::mem::replace(&mut self.looked_us, now));
        self.waited += since.min(env.takeover_wait / 20);
        self.waited
    }

    /// After a take-over, committed offsets and changelog may still move: look at both afresh in a moment.
    fn ask_again(&mut self, env: &Env<'_>) -> Result<(), RestoreError> {
        (self.target, self.work) = (None, None);
        env.clock.sleep(Duration::from_millis(20));
        Ok(())
    }

    fn mismatch(&self, env: &Env<'_>, why: &str) -> RestoreError {
        let topic = env.topics.name(env.spec.changelog);
        let kind = if self.waited < env.takeover_wait { RestoreError::Doubt } else { RestoreError::Stop };
        kind(format!(
            "{} task {} refuses to run: state and committed offsets do not belong together: {why}. Nothing was changed. If offsets were reset or \
             {topic} was deleted on purpose, remove the group's offsets, the changelog and the local state together and replay from zero",
            env.spec.name, self.task
        ))
    }
}

fn limits(env: &Env<'_>) -> Limits {
    let records = if crash::armed(Point::RestoreChunk) { 8 } else { 50_000 };
    Limits { records, bytes: 16 << 20, age: env.slice }
}

/// Digest of everything in a store.
pub fn scan_digest(store: &dyn StateStore) -> Result<Digest, StoreError> {
    let mut sum = Digest::ZERO;
    store.scan(b"", &mut |key, value| {
        sum = sum.replace(Digest::ZERO, digest::of(key, value));
        true
    })?;
    Ok(sum)
}
