//! State in RocksDB: one database for each task.
//!
//! A write is one batch with the data and the meta record. After the call returns, the batch is in
//! the write-ahead log, but not forced to the disk. After a power failure the store may be behind
//! the log. Its data always match its meta record, and the changelog restores the rest. All keys of
//! the task have a one-byte prefix, so no key of a task can reach the meta record.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, PoisonError};
use std::time::Duration;

use faults::crash::{self, Point};
use os::files;
use os::files::look::{self, Inspection};
use ports::{StateStore, StoreError, StoreWrite, Stores};
use rocksdb::{
    BlockBasedOptions, Cache, DB, DBCompressionType, DBRecoveryMode, ErrorKind, InfoLogger,
    LogLevel, Options, ReadOptions, WriteBatch, WriteBufferManager, WriteOptions,
};

use super::dir::{FORMAT, InstanceDir, StateIdentity, newer};
use super::open_generations::Lives;
use super::open_stores::{DatabaseState, OpenDatabase, OpenStores, StoreSlot};

const DATA: u8 = 1;
pub(super) const META: &[u8] = &[0, b'm'];
const VERSION: &[u8] = &[0, b'f'];
/// See [`super::open_generations`].
const LIVES: [&[u8]; 2] = [&[0, b'l', 0], &[0, b'l', 1]];
const BEFORE: &[u8] = &[0, b'p'];

/// Memory that all stores of a process share, independent of the number of stores.
#[derive(Clone)]
pub struct SharedMemory {
    cache: Cache,
    buffers: WriteBufferManager,
    room: Arc<OpenStores>,
}

impl SharedMemory {
    /// `cache_bytes`: for blocks that were read. `buffer_bytes`: for writes that are not in a table
    /// yet.
    pub fn new(cache_bytes: usize, buffer_bytes: usize) -> Self {
        SharedMemory {
            cache: Cache::new_lru_cache(cache_bytes),
            buffers: WriteBufferManager::new_write_buffer_manager(buffer_bytes, false),
            room: Arc::default(),
        }
    }

    /// Limits the number of open stores to `most`, instead of a limit from the process's open
    /// files.
    pub fn with_open_stores(self, most: usize) -> Self {
        SharedMemory {
            room: Arc::new(OpenStores::at_most(most)),
            ..self
        }
    }
}

impl Default for SharedMemory {
    fn default() -> Self {
        SharedMemory::new(128 << 20, 192 << 20)
    }
}

/// The stores of an instance, in its locked directory.
pub struct RocksStores {
    state: PathBuf,
    instance: String,
    identity: StateIdentity,
    dir: OnceLock<InstanceDir>,
    shared: SharedMemory,
}

impl RocksStores {
    /// Opens `STATE/<role>/<instance>` at once; see [`InstanceDir::open`].
    pub fn open(
        state: &Path,
        instance: &str,
        identity: &StateIdentity,
        wait: Duration,
        shared: &SharedMemory,
    ) -> Result<Self, StoreError> {
        let dir = OnceLock::from(InstanceDir::open(state, instance, identity, wait)?);
        Ok(RocksStores {
            dir,
            ..Self::unopened(state, instance, identity, shared)
        })
    }

    /// Checks the directory now, and locks it at the opening of the first store. An instance must
    /// first fence its predecessor in the log, because a working predecessor would keep the lock
    /// for ever.
    pub fn open_later(
        state: &Path,
        instance: &str,
        identity: &StateIdentity,
        shared: &SharedMemory,
    ) -> Result<Self, StoreError> {
        InstanceDir::look(state, instance, identity)?;
        Ok(Self::unopened(state, instance, identity, shared))
    }

    fn unopened(
        state: &Path,
        instance: &str,
        identity: &StateIdentity,
        shared: &SharedMemory,
    ) -> Self {
        let state = state.to_path_buf();
        let instance = instance.to_string();
        let identity = identity.clone();
        RocksStores {
            state,
            instance,
            identity,
            dir: OnceLock::new(),
            shared: shared.clone(),
        }
    }

    fn dir(&self) -> Result<&InstanceDir, StoreError> {
        if let Some(dir) = self.dir.get() {
            return Ok(dir);
        }

        let dir = InstanceDir::open(&self.state, &self.instance, &self.identity, Duration::ZERO)?;
        Ok(self.dir.get_or_init(|| dir))
    }

    /// Removes the stores of all tasks, also quarantined stores. Lock and identity stay.
    pub fn wipe(&self) -> Result<(), StoreError> {
        self.dir()?.wipe()
    }
}

/// Number of parallel opens. An open mostly waits for the disk, so several opens together take
/// hardly longer than a single open.
const TOGETHER: usize = 4;

impl Stores for RocksStores {
    fn open(&self, task: u32) -> Result<Box<dyn StateStore>, StoreError> {
        Ok(Box::new(RocksStore::open(
            &self.dir()?.task(task),
            &self.shared,
        )?))
    }

    fn together(&self) -> usize {
        TOGETHER
    }

    fn open_all(&self, tasks: &[u32]) -> Vec<Result<Box<dyn StateStore>, StoreError>> {
        if tasks.len() < 2 || self.dir().is_err() {
            return tasks.iter().map(|task| self.open(*task)).collect();
        }

        std::thread::scope(|scope| {
            let begin = |task: &u32| {
                let task = *task;
                (
                    task,
                    std::thread::Builder::new()
                        .name("open-store".into())
                        .spawn_scoped(scope, move || self.open(task)),
                )
            };

            let begun: Vec<_> = tasks.iter().map(begin).collect();
            let end =
                |(task, thread): (u32, std::io::Result<std::thread::ScopedJoinHandle<'_, _>>)| {
                    match thread {
                        Ok(thread) => thread
                            .join()
                            .unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
                        Err(_) => self.open(task),
                    }
                };

            begun.into_iter().map(end).collect()
        })
    }

    fn quarantine(&self, task: u32) -> Result<String, StoreError> {
        self.dir()?.quarantine(task)
    }
}

fn without_current(path: &Path) -> StoreError {
    StoreError::Corrupt(format!("{} has files but not CURRENT", path.display()))
}

/// The store of one task.
pub struct RocksStore {
    path: PathBuf,
    slot: Arc<StoreSlot>,
    shared: SharedMemory,
    write: WriteOptions,
    key: Vec<u8>,
}

impl RocksStore {
    /// Opens or creates a store.
    pub fn open(path: &Path, shared: &SharedMemory) -> Result<Self, StoreError> {
        files::private_dir(path).map_err(|e| super::dir::io(path, &e))?;
        let open = Self::open_with_room(path, shared)?;
        Ok(Self::with(path, open, shared))
    }

    /// Opens a database. If descriptors are scarce, closes other stores first.
    fn open_with_room(path: &Path, shared: &SharedMemory) -> Result<OpenDatabase, StoreError> {
        // Without this file RocksDB would treat the other files as garbage and start an empty
        // database.
        let has_files = std::fs::read_dir(path).is_ok_and(|mut files| files.next().is_some());
        if has_files && !path.join("CURRENT").exists() {
            return Err(without_current(path));
        }

        let mut options = options(shared, guarded(path)?);
        options.create_if_missing(true);
        loop {
            shared.room.make_for_one();
            let opened = DB::open(&options, path)
                .map_err(|e| error(path, &e))
                .and_then(|db| Self::look_into(path, db, true));
            match opened {
                // Another part of the process took the last descriptors.
                Err(StoreError::Io(why))
                    if files::says_out_of_descriptors(&why) && shared.room.close_one(0) => {}
                opened => return opened,
            }
        }
    }

    /// True if a directory was ever a complete store. A directory never held data if the disk was
    /// full, or its owner died, while RocksDB created its first files.
    pub fn was_made(path: &Path) -> bool {
        let held_something = |name: std::ffi::OsString| matches!(Path::new(&name).extension(), Some(e) if e == "sst" || e == "log");
        path.join("CURRENT").exists()
            || std::fs::read_dir(path).is_ok_and(|mut files| {
                files.any(|f| f.is_ok_and(|f| held_something(f.file_name())))
            })
    }

    /// Opens a snapshot of a store for reading, even while its owner runs. Writes fail.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        match look::at_rest(path, || Self::open_once(path)) {
            Inspection::Found(found) => found,
            Inspection::Busy(tries) => Err(StoreError::Io(format!(
                "{}: the process that owns this store replaced its files during each of {tries} attempts to open it; try again when it has less to do",
                path.display()
            ))),
        }
    }

    fn open_once(path: &Path) -> Result<Self, StoreError> {
        if !path.join("CURRENT").exists() {
            if Self::was_made(path) {
                return Err(without_current(path));
            }

            return Err(StoreError::Invalid(format!(
                "there is no store in {}; has the role run here?",
                path.display()
            )));
        }

        let shared = SharedMemory::new(16 << 20, 0).with_open_stores(usize::MAX);
        let mut options = options(&shared, guarded(path)?);

        // Keep all files open: files that the owner deletes later stay readable only while open.
        options.set_max_open_files(-1);
        let db = DB::open_for_read_only(&options, path, false).map_err(|e| error(path, &e))?;
        Ok(Self::with(path, Self::look_into(path, db, false)?, &shared))
    }

    fn with(path: &Path, open: OpenDatabase, shared: &SharedMemory) -> Self {
        let slot = shared.room.add(open);
        let shared = shared.clone();
        RocksStore {
            path: path.to_path_buf(),
            slot,
            shared,
            write: WriteOptions::default(),
            key: vec![DATA],
        }
    }

    /// Checks that a database that was just opened is complete and has a known format. A new
    /// database gets the format version if `writes` is true.
    fn look_into(path: &Path, db: DB, writes: bool) -> Result<OpenDatabase, StoreError> {
        let get = |key| db.get(key).map_err(|e| error(path, &e));
        let lives = Lives::read([get(LIVES[0])?, get(LIVES[1])?], get(BEFORE)?);
        let lives =
            lives.map_err(|why| StoreError::Corrupt(format!("{}: {why}", path.display())))?;
        match get(VERSION)? {
            None if writes => db
                .put(VERSION, FORMAT.to_le_bytes())
                .map_err(|e| error(path, &e))?,
            None => {}
            Some(bytes) => {
                let format = bytes.try_into().map(u32::from_le_bytes).map_err(|_| {
                    StoreError::Corrupt(format!("{}: no format version", path.display()))
                })?;

                if format > FORMAT {
                    return Err(newer(path, format));
                }
            }
        }

        Ok(OpenDatabase { db, lives })
    }

    /// Runs `then` with the database. Reopens the database first if it was closed to free
    /// descriptors.
    fn opened<T>(&self, then: impl FnOnce(&DB) -> Result<T, StoreError>) -> Result<T, StoreError> {
        loop {
            // Other threads only try the write lock. So the visitor of a scan may read at the same
            // time.
            let state = self
                .slot
                .state
                .read()
                .unwrap_or_else(PoisonError::into_inner);
            if let DatabaseState::Open(open) = &*state {
                return then(&open.db);
            }

            drop(state);
            self.reopen()?;
        }
    }

    fn reopen(&self) -> Result<(), StoreError> {
        let mut state = self
            .slot
            .state
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let DatabaseState::Closed(meta) = &*state else {
            return Ok(());
        };

        let open = Self::open_with_room(&self.path, &self.shared)?;
        if open.db.get(META).map_err(|e| self.error(&e))? != *meta {
            return Err(StoreError::Corrupt(format!(
                "{}: it is not what it was when it was closed",
                self.path.display()
            )));
        }

        *state = DatabaseState::Open(open);
        self.shared.room.reopened(&self.slot);
        Ok(())
    }

    fn walk(
        &self,
        first: &[u8],
        mut options: ReadOptions,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        options.set_total_order_seek(true);
        self.opened(|db| {
            let mut iterator = db.raw_iterator_opt(options);
            iterator.seek(first);
            while let Some((key, value)) = iterator.item() {
                if !visit(key, value) {
                    return Ok(());
                }

                iterator.next();
            }

            iterator.status().map_err(|e| self.error(&e))
        })
    }

    fn error(&self, e: &rocksdb::Error) -> StoreError {
        error(&self.path, e)
    }

    /// For tests: the process dies while RocksDB flushes the last writes from memory to a table
    /// file.
    #[cfg(feature = "faults")]
    fn crash_in_flush(db: &DB) {
        if crash::due(Point::StoreFlush) {
            let mut options = rocksdb::FlushOptions::default();
            options.set_wait(false);
            db.flush_opt(&options).expect("a flush can begin");
            crash::die(Point::StoreFlush);
        }
    }
}

/// Runs `then` with the prefixed key of a task, without an allocation for keys of common length.
fn with_key<T>(key: &[u8], then: impl FnOnce(&[u8]) -> T) -> T {
    let mut short = [DATA; 129];
    match short.get_mut(1..=key.len()) {
        Some(place) => {
            place.copy_from_slice(key);
            then(&short[..=key.len()])
        }
        None => then(&[&[DATA], key].concat()),
    }
}

impl Drop for RocksStore {
    fn drop(&mut self) {
        self.slot.end();
    }
}

impl StateStore for RocksStore {
    fn meta(&self) -> Result<Option<Vec<u8>>, StoreError> {
        // Each start of the loop reads the meta record of every store. This read must not reopen
        // closed stores.
        if let DatabaseState::Closed(meta) = &*self
            .slot
            .state
            .read()
            .unwrap_or_else(PoisonError::into_inner)
        {
            return Ok(meta.clone());
        }

        self.opened(|db| db.get(META).map_err(|e| self.error(&e)))
    }

    fn get(&self, key: &[u8], into: &mut Vec<u8>) -> Result<bool, StoreError> {
        into.clear();
        self.opened(|db| {
            let found = with_key(key, |key| db.get_pinned(key)).map_err(|e| self.error(&e))?;
            into.extend_from_slice(found.as_deref().unwrap_or_default());
            Ok(found.is_some())
        })
    }

    fn write(
        &mut self,
        changes: &mut dyn Iterator<Item = StoreWrite<'_>>,
        meta: &[u8],
    ) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for (key, value) in changes {
            self.key.truncate(1);
            self.key.extend_from_slice(key);
            match value {
                Some(value) => batch.put(&self.key, value),
                None => batch.delete(&self.key),
            }
        }

        batch.put(META, meta);
        loop {
            let mut state = self
                .slot
                .state
                .write()
                .unwrap_or_else(PoisonError::into_inner);
            let DatabaseState::Open(open) = &mut *state else {
                drop(state);
                self.reopen()?;
                continue;
            };

            let (slot, mark, before) = open.lives.next();
            batch.put(LIVES[slot], mark);
            if let Some(before) = before {
                batch.put(BEFORE, before);
            }

            crash::point(Point::StoreBatch);
            open.db
                .write_opt(batch, &self.write)
                .map_err(|e| self.error(&e))?;
            #[cfg(feature = "faults")]
            Self::crash_in_flush(&open.db);
            break;
        }

        self.shared.room.wrote(&self.slot);
        Ok(())
    }

    fn scan(
        &self,
        prefix: &[u8],
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        let first = [&[DATA], prefix].concat();
        self.walk(&first, ReadOptions::default(), &mut |key, value| {
            key.starts_with(&first) && visit(&key[1..], value)
        })
    }

    fn scan_after(
        &self,
        key: Option<&[u8]>,
        visit: &mut dyn FnMut(&[u8], &[u8]) -> bool,
    ) -> Result<(), StoreError> {
        // The next possible key is this key with a zero byte appended.
        let first = key.map_or(vec![DATA], |key| [&[DATA], key, &[0]].concat());
        let mut options = ReadOptions::default();

        // The scan must not displace the cached blocks of the running task.
        options.fill_cache(false);
        self.walk(&first, options, &mut |key, value| {
            key.first() == Some(&DATA) && visit(&key[1..], value)
        })
    }
}

/// Options that make each write-ahead log name its predecessor. A store may lose a log, or a
/// MANIFEST entry of a table, while later logs exist. Without these options the store would then
/// open with a hole in the middle and the newest meta record. No check would fail. RocksDB does not
/// check the step between two opens; [`Lives`] checks that step.
fn guarded(path: &Path) -> Result<Options, StoreError> {
    Options::default()
        .get_options_from_string("track_and_verify_wals=true")
        .map_err(|e| error(path, &e))
}

fn options(shared: &SharedMemory, mut o: Options) -> Options {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(&shared.cache);
    table.set_bloom_filter(10.0, false);
    table.set_format_version(5);
    o.set_block_based_table_factory(&table);
    o.set_write_buffer_manager(&shared.buffers);
    o.set_write_buffer_size(16 << 20);

    // RocksDB preallocates space for both kinds of log, by default 20 MB for each store, even for a
    // small store. Thirty stores would not fit on a small disk. With one column family, the second
    // option bounds only this preallocation.
    o.set_manifest_preallocation_size(64 << 10);
    o.set_max_total_wal_size(1 << 20);
    o.set_max_write_buffer_number(3);
    o.set_compression_type(DBCompressionType::Lz4);
    o.set_paranoid_checks(true);
    o.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    o.set_max_background_jobs(2);

    // Thirty stores must not use up a process's descriptors; see also `open_stores`.
    o.set_max_open_files(32);
    o.set_skip_stats_update_on_db_open(true);

    // RocksDB logs through `tracing`. A separate log file would cost a descriptor per store, and
    // operators would not read the file.
    o.set_info_logger(InfoLogger::new_callback_logger(
        LogLevel::Warn,
        |level, text| tracing::debug!(target: "rocksdb", ?level, "{text}"),
    ));
    o.set_stats_dump_period_sec(0);
    o
}

fn error(path: &Path, e: &rocksdb::Error) -> StoreError {
    let text = e.to_string();
    let path = path.display();
    match e.kind() {
        ErrorKind::Corruption => StoreError::Corrupt(format!("{path}: {text}")),
        _ if files::says_out_of_descriptors(&text) => {
            StoreError::Io(format!("{path}: {text}; {}", files::DESCRIPTORS_ADVICE))
        }
        ErrorKind::IOError if text.contains("No such file") => {
            StoreError::Corrupt(format!("{path}: a file is missing: {text}"))
        }
        // We already hold the directory's lock, so the current holder of the store will release it
        // soon. The holder may be a part of this process, such as a finished restore on its way
        // from its thread to the loop. Or the holder is a predecessor that shuts down: a
        // predecessor releases the directory before its last store is closed.
        ErrorKind::IOError
            if text.contains("While lock file")
                || text.contains("lock hold by current process") =>
        {
            StoreError::Held(format!(
                "{path} is still open elsewhere; stop the process that has it, or use another --instance or --state"
            ))
        }
        _ if text.contains("No space left") => StoreError::Io(format!(
            "{path}: {text}; free some space and start again; nothing is lost"
        )),
        _ if text.contains("Read-only") || text.contains("Permission denied") => {
            StoreError::Io(format!(
                "{path}: {text}; make the directory writable for this user, or choose another with --state"
            ))
        }
        _ => StoreError::Io(format!(
            "{path}: {text}; put that right and start again; nothing is lost"
        )),
    }
}
