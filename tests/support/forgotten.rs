//! A group with expired offsets, as in a Kafka cluster after an idle week
//! (offsets.retention.minutes).

use std::path::Path;

/// Deletes the offsets of a group from an embedded log. No process may have the log open.
pub fn forget(log: &Path, group: &str) {
    let dir = log.join("log");
    let options = rocksdb::Options::default();
    let families = rocksdb::DB::list_cf(&options, &dir).expect("its families");
    let db = rocksdb::DB::open_cf(&options, &dir, families).expect("the database");
    let keys: Vec<Box<[u8]>> = db
        .iterator(rocksdb::IteratorMode::Start)
        .map(|kv| kv.expect("a row").0)
        .collect();
    let of_group = |k: &[u8]| k.windows(group.len()).any(|w| w == group.as_bytes());
    let found: Vec<_> = keys.iter().filter(|k| of_group(k)).collect();
    assert!(!found.is_empty());
    found.iter().for_each(|k| db.delete(k).expect("deleted"));
}
