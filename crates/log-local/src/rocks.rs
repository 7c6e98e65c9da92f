//! Storage in RocksDB: the embedded log.
//!
//! A directory holds `log` (RocksDB), `identity` (cluster id and format) and `pid` (the process
//! that has the log open). Each batch has one key: topic, partition, first offset. Batches of
//! uncompacted topics are in a column family whose values go to blob files. Blob files are written
//! once and never rewritten. Batches of compacted topics are in an ordinary column family. A
//! transaction is one write batch over all of this data. When the commit returns, the transaction
//! is in the write-ahead log, so a killed process loses nothing. When [`Storage::sync`] returns, the
//! transaction is on the disk, so a power failure loses nothing.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use os::files;
use os::files::look::{self, Inspection};
use ports::LogError;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType,
    DBRawIterator, DBRecoveryMode, ErrorKind, InfoLogger, LogLevel, Options, ReadOptions,
    WriteBatch, WriteOptions,
};
use serde::{Deserialize, Serialize};

use super::Durability;
use super::batch::{PackedBatch, UnreadableBatch};
use super::format;
use super::storage::{Compacted, Loaded, Storage, StorageCommit, StoredPartition, TopicRow};

const FORMAT: u32 = 1;
const KEPT: &str = "kept";
const COMPACTED: &str = "compacted";
const TOPIC: u8 = b't';
const OFFSET: u8 = b'o';
const PROGRESS: u8 = b'c';

pub(crate) struct Rocks {
    dir: PathBuf,
    id: String,
    db: DB,
    /// Write options for rare, separate writes.
    rare: WriteOptions,
    read_only: bool,
}

#[derive(Serialize, Deserialize)]
struct LogIdentity {
    format: u32,
    cluster_id: String,
}

impl Rocks {
    /// Opens or creates the log in a directory.
    pub(crate) fn open(dir: &Path, durability: Durability) -> Result<Self, LogError> {
        files::create_dir(dir)
            .and_then(|()| files::private_dir(&dir.join("log")))
            .map_err(|e| unusable(dir, &e.to_string()))?;
        let known = read_identity(dir)?;
        let mut options = options(tracked(dir)?);
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let db = DB::open_cf_descriptors(&options, dir.join("log"), families())
            .map_err(|e| open_error(dir, &e))?;
        let id = match known {
            Some(identity) => identity.cluster_id,
            None if db.iterator(rocksdb::IteratorMode::Start).next().is_none() => {
                make_identity(dir).map_err(|e| unusable(dir, &e.to_string()))?
            }
            None => {
                return Err(LogError::Invalid(format!(
                    "{} holds a log, but its identity file is gone; put it back, or use another directory",
                    dir.display()
                )));
            }
        };

        // Only for error messages: RocksDB holds the lock itself.
        let pid = std::process::id().to_string();
        files::create(&dir.join("pid"))
            .and_then(|mut file| file.write_all(pid.as_bytes()))
            .map_err(|e| unusable(dir, &e.to_string()))?;
        let mut rare = WriteOptions::default();
        rare.set_sync(durability == Durability::Disk);
        Ok(Rocks {
            dir: dir.to_path_buf(),
            id,
            db,
            rare,
            read_only: false,
        })
    }

    /// Opens a snapshot of the log for reading.
    pub(crate) fn open_read_only(dir: &Path) -> Result<Self, LogError> {
        let Some(identity) = read_identity(dir)? else {
            return Err(LogError::Invalid(format!(
                "there is no embedded log in {}; start something with --embedded {0} first, or name another directory",
                dir.display()
            )));
        };

        let files = dir.join("log");
        let open = || {
            let mut options = options(tracked(dir)?);

            // Keep all files open: files that the owner deletes later stay readable only while
            // open.
            options.set_max_open_files(-1);
            DB::open_cf_descriptors_read_only(&options, &files, families(), false)
                .map_err(|e| open_error(dir, &e))
        };

        let db = match look::at_rest(&files, open) {
            Inspection::Found(opened) => opened?,
            Inspection::Busy(tries) => {
                return Err(LogError::Io(format!(
                    "{}: the process that runs on this log replaced its files during each of {tries} attempts to look into it; try again when it has less to do",
                    dir.display()
                )));
            }
        };

        Ok(Rocks {
            dir: dir.to_path_buf(),
            id: identity.cluster_id,
            db,
            rare: WriteOptions::default(),
            read_only: true,
        })
    }

    fn family(&self, compact: bool) -> &ColumnFamily {
        self.db
            .cf_handle(if compact { COMPACTED } else { KEPT })
            .expect("the column families are opened with the log")
    }

    fn iterator(&self, at: StoredPartition) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_lower_bound(key(at, 0));
        let mut past = key(at, u64::MAX);
        past.push(0);
        options.set_iterate_upper_bound(past);
        self.db
            .raw_iterator_cf_opt(self.family(at.compact), options)
    }

    /// The batch at the iterator's position.
    fn current(&self, iterator: &DBRawIterator<'_>) -> Result<Option<Arc<PackedBatch>>, LogError> {
        let Some((key, value)) = iterator.item() else {
            iterator.status().map_err(|e| self.error(&e))?;
            return Ok(None);
        };

        let base = key
            .get(6..14)
            .and_then(|b| b.try_into().ok())
            .map(u64::from_be_bytes);
        let base = base.ok_or_else(|| self.damaged("a key is cut short"))?;
        PackedBatch::parse(base, value.to_vec())
            .map(Some)
            .map_err(|e| match e {
                UnreadableBatch::Newer(_) => {
                    LogError::Invalid(format!("{}: {e}", self.dir.display()))
                }
                UnreadableBatch::Damaged(why) => self.damaged(&why),
            })
    }

    /// Maps a decode error of a topic row, a committed offset or the progress of a compaction.
    fn known<T>(&self, found: Result<T, format::UnreadableValue>) -> Result<T, LogError> {
        found.map_err(|e| match e {
            format::UnreadableValue::Newer { .. } => {
                LogError::Invalid(format!("{}: {e}", self.dir.display()))
            }
            format::UnreadableValue::Damaged(_) => self.damaged(&e.to_string()),
        })
    }

    fn damaged(&self, why: &str) -> LogError {
        LogError::Corrupt(format!(
            "{}: {why}; restore the directory from a backup, or begin anew in another one",
            self.dir.display()
        ))
    }

    fn error(&self, e: &rocksdb::Error) -> LogError {
        open_error(&self.dir, e)
    }
}

impl Drop for Rocks {
    fn drop(&mut self) {
        if self.read_only {
            return;
        }

        if let Err(e) = std::fs::remove_file(self.dir.join("pid")) {
            tracing::debug!("the pid file stays behind: {e}");
        }
    }
}

impl Storage for Rocks {
    fn cluster_id(&self) -> &str {
        &self.id
    }

    fn read_only(&self) -> Option<String> {
        let dir = self.dir.display();
        self.read_only
            .then(|| format!("the log in {dir} is open for looking only; do this in the process that runs on it, or stop that first"))
    }

    fn load(&self) -> Result<Loaded, LogError> {
        let mut loaded = Loaded::default();
        let mut iterator = self.db.raw_iterator();
        iterator.seek_to_first();
        while let Some((key, value)) = iterator.item() {
            match key.first() {
                Some(&TOPIC) => loaded.topics.push(self.known(format::topic(value))?),
                Some(&OFFSET) => {
                    let (group, topic, partition) = parse_offset_key(key)
                        .ok_or_else(|| self.damaged("an offset's key is unreadable"))?;
                    loaded.offsets.push((
                        group,
                        topic,
                        partition,
                        self.known(format::offset(value))?,
                    ));
                }
                _ => {}
            }

            iterator.next();
        }

        iterator.status().map_err(|e| self.error(&e))?;
        Ok(loaded)
    }

    fn add_topic(&self, row: &TopicRow) -> Result<(), LogError> {
        let mut key = vec![TOPIC];
        key.extend_from_slice(&row.number.to_be_bytes());
        self.db
            .put_opt(key, format::put_topic(row), &self.rare)
            .map_err(|e| self.error(&e))
    }

    fn sync(&self) -> Result<(), LogError> {
        self.db.flush_wal(true).map_err(|e| self.error(&e))
    }

    fn commit(&self, commit: &StorageCommit<'_>) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        for (at, packed) in commit.batches {
            batch.put_cf(
                self.family(at.compact),
                key(*at, packed.base()),
                packed.as_bytes(),
            );
        }

        for (at, offset) in commit.offsets {
            batch.put(offset_key(commit.group, *at), format::put_offset(*offset));
        }

        self.db.write(batch).map_err(|e| self.error(&e))
    }

    fn read(
        &self,
        at: StoredPartition,
        from: u64,
        bytes: usize,
    ) -> Result<Vec<Arc<PackedBatch>>, LogError> {
        let mut iterator = self.iterator(at);
        iterator.seek_for_prev(key(at, from));
        let mut found = Vec::new();
        let mut size = 0;
        match self.current(&iterator)? {
            Some(batch) if batch.last() >= from => {
                size = batch.as_bytes().len();
                found.push(batch);
                iterator.next();
            }
            Some(_) => iterator.next(),
            None => iterator.seek_to_first(),
        }

        while size < bytes || found.is_empty() {
            let Some(batch) = self.current(&iterator)? else {
                break;
            };

            size += batch.as_bytes().len();
            found.push(batch);
            iterator.next();
        }

        Ok(found)
    }

    fn last(&self, at: StoredPartition) -> Result<Option<Arc<PackedBatch>>, LogError> {
        let mut iterator = self.iterator(at);
        iterator.seek_to_last();
        self.current(&iterator)
    }

    fn compacted(&self, at: StoredPartition) -> Result<Compacted, LogError> {
        let Some(value) = self.db.get(progress_key(at)).map_err(|e| self.error(&e))? else {
            return Ok(Compacted::default());
        };

        self.known(format::progress(&value))
    }

    fn replace(
        &self,
        at: StoredPartition,
        old: &[u64],
        new: Option<&PackedBatch>,
    ) -> Result<(), LogError> {
        let mut batch = WriteBatch::default();
        let family = self.family(at.compact);
        for base in old {
            batch.delete_cf(family, key(at, *base));
        }

        if let Some(new) = new {
            batch.put_cf(family, key(at, new.base()), new.as_bytes());
        }

        self.db.write(batch).map_err(|e| self.error(&e))
    }

    fn set_compacted(&self, at: StoredPartition, to: Compacted) -> Result<(), LogError> {
        self.db
            .put(progress_key(at), format::put_progress(to))
            .map_err(|e| self.error(&e))
    }
}

fn key(at: StoredPartition, base: u64) -> Vec<u8> {
    let mut key = Vec::with_capacity(15);
    key.extend_from_slice(&at.topic.to_be_bytes());
    key.extend_from_slice(&at.partition.to_be_bytes());
    key.extend_from_slice(&base.to_be_bytes());
    key
}

fn progress_key(at: StoredPartition) -> Vec<u8> {
    let mut key = vec![PROGRESS];
    key.extend_from_slice(&at.topic.to_be_bytes());
    key.extend_from_slice(&at.partition.to_be_bytes());
    key
}

fn offset_key(group: &str, at: StoredPartition) -> Vec<u8> {
    let mut key = vec![OFFSET];
    key.extend_from_slice(group.as_bytes());
    key.extend_from_slice(&at.topic.to_be_bytes());
    key.extend_from_slice(&at.partition.to_be_bytes());
    key
}

fn parse_offset_key(key: &[u8]) -> Option<(String, u16, u32)> {
    let (rest, partition) = key.split_last_chunk::<4>()?;
    let (rest, topic) = rest.split_last_chunk::<2>()?;
    let group = String::from_utf8(rest.get(1..)?.to_vec()).ok()?;
    Some((
        group,
        u16::from_be_bytes(*topic),
        u32::from_be_bytes(*partition),
    ))
}

/// Options that make each write-ahead log name its predecessor, so that RocksDB detects a missing
/// log.
fn tracked(dir: &Path) -> Result<Options, LogError> {
    Options::default()
        .get_options_from_string("track_and_verify_wals=true")
        .map_err(|e| open_error(dir, &e))
}

fn options(mut o: Options) -> Options {
    o.set_paranoid_checks(true);
    o.set_wal_recovery_mode(DBRecoveryMode::PointInTime);
    o.set_max_total_wal_size(256 << 20);
    o.set_max_background_jobs(2);
    o.set_max_open_files(512);
    o.set_bytes_per_sync(1 << 20);
    o.set_info_logger(InfoLogger::new_callback_logger(
        LogLevel::Warn,
        |level, text| tracing::debug!(target: "rocksdb", ?level, "{text}"),
    ));
    o.set_stats_dump_period_sec(0);
    o
}

fn families() -> Vec<ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(64 << 20);
    let family = |write_buffer: usize| {
        let mut o = Options::default();
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&cache);
        table.set_format_version(5);
        o.set_block_based_table_factory(&table);
        o.set_compression_type(DBCompressionType::Lz4);
        o.set_write_buffer_size(write_buffer);
        o.set_max_write_buffer_number(4);
        o
    };

    let mut kept = family(64 << 20);
    kept.set_enable_blob_files(true);
    kept.set_min_blob_size(1 << 10);
    kept.set_blob_file_size(256 << 20);
    kept.set_blob_compression_type(DBCompressionType::Lz4);
    vec![
        ColumnFamilyDescriptor::new("default", family(8 << 20)),
        ColumnFamilyDescriptor::new(KEPT, kept),
        ColumnFamilyDescriptor::new(COMPACTED, family(64 << 20)),
    ]
}

fn read_identity(dir: &Path) -> Result<Option<LogIdentity>, LogError> {
    let path = dir.join("identity");
    let bytes = match std::fs::read(&path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(unusable(dir, &e.to_string())),
    };

    let identity: LogIdentity = serde_json::from_slice(&bytes).map_err(|e| {
        LogError::Invalid(format!(
            "{} is unreadable ({e}); put it back, or use another directory",
            path.display()
        ))
    })?;

    if identity.format > FORMAT {
        return Err(LogError::Invalid(format!(
            "the log in {} was written by a newer version (format {}, this one knows {FORMAT}); use that version",
            dir.display(),
            identity.format
        )));
    }

    Ok(Some(identity))
}

fn make_identity(dir: &Path) -> std::io::Result<String> {
    let identity = LogIdentity {
        format: FORMAT,
        cluster_id: uuid::Uuid::now_v7().to_string(),
    };

    // Sync the parent directory too. Otherwise a power failure could remove the new directory
    // together with acknowledged records.
    dir.parent().map_or(Ok(()), files::sync_dir)?;
    files::replace(&dir.join("identity"), &serde_json::to_vec(&identity)?)?;
    Ok(identity.cluster_id)
}

/// RocksDB's messages for a lock that another process, or this process, holds.
fn is_locked(text: &str) -> bool {
    text.contains("While lock file") || text.contains("lock hold by current process")
}

fn unusable(dir: &Path, why: &str) -> LogError {
    let advice = match why {
        _ if why.contains("No space left") => "free some space",
        _ if files::says_out_of_descriptors(why) => files::DESCRIPTORS_ADVICE,
        _ => "check the disk and the directory's permissions",
    };

    LogError::Io(format!(
        "the log in {} cannot be used: {why}; {advice}",
        dir.display()
    ))
}

fn open_error(dir: &Path, e: &rocksdb::Error) -> LogError {
    let text = e.to_string();
    match e.kind() {
        ErrorKind::Corruption => LogError::Corrupt(format!(
            "{}: {text}; restore the directory from a backup, or begin anew in another one",
            dir.display()
        )),
        _ if files::says_out_of_descriptors(&text) => unusable(dir, &text),
        ErrorKind::IOError if text.contains("LOCK") && is_locked(&text) => {
            let holder = match std::fs::read_to_string(dir.join("pid")) {
                Ok(pid) if pid.trim() == std::process::id().to_string() => {
                    "this very process".to_string()
                }
                Ok(pid) => format!("process {}", pid.trim()),
                Err(_) => "another process".to_string(),
            };

            LogError::Invalid(format!(
                "{} is in use by {holder}; stop it, or use another --embedded directory, or Kafka (--brokers) for more than one process",
                dir.display()
            ))
        }
        _ => unusable(dir, &text),
    }
}
