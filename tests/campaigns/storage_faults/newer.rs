//! Files of a newer version are never changed; the program ends with an instruction and with exit
//! code 78.

use engine::checkpoint::META_KEY;
use engine::instance::FatalError;
use engine::sequence_check;
use ports::{StoreError, Stores};
use wire::topics as t;

use super::stage::{Baseline, Stage};

/// Starts the role and expects a refusal without any change.
fn refused(stage: &Stage, parts: &[&str]) {
    let mut instance = stage.instance(None);
    stage.probe();
    match stage.drain(&mut instance) {
        Err(FatalError::Invalid(text)) => parts
            .iter()
            .for_each(|part| assert!(text.contains(part), "{text}")),
        other => panic!("{other:?}"),
    }

    assert_eq!(stage.put_aside(), 0, "it is not ours to put aside");
}

#[test]
fn a_store_in_a_newer_format() {
    let stage = Baseline::get().stage();
    let db = rocksdb::DB::open_default(stage.store()).expect("the database opens");
    db.put([0, b'f'], 2_u32.to_le_bytes()).expect("a write");
    drop(db);
    refused(
        &stage,
        &[
            "newer version (format 2, this one knows 1)",
            "use that version, or delete",
        ],
    );
}

#[test]
fn a_store_with_a_newer_meta_record() {
    let stage = Baseline::get().stage();
    {
        let stores = stage.rocks();
        stores
            .open(0)
            .expect("it opens")
            .write(&mut std::iter::empty(), &[7, 1, 2, 3])
            .expect("a write");
    }

    refused(
        &stage,
        &[
            "a store's meta record",
            "format 7, this one knows 6",
            "use the version that wrote it",
        ],
    );
}

#[test]
fn a_store_whose_meta_record_is_rubbish_is_rebuilt() {
    let baseline = Baseline::get();
    let stage = Baseline::get().stage();
    {
        let stores = stage.rocks();
        stores
            .open(0)
            .expect("it opens")
            .write(&mut std::iter::empty(), &[1, 0xff])
            .expect("a write");
    }

    let mut instance = stage.instance(None);
    stage.probe();
    stage
        .drain(&mut instance)
        .expect("it is damage, and damage is rebuilt");
    assert_eq!(stage.put_aside(), 1);
    baseline.check(&stage, "a meta record of rubbish");
}

#[test]
fn a_changelog_with_a_newer_meta_record() {
    let stage = Baseline::get().stage();
    stage.append_raw(t::ORDERS_CHANGELOG, META_KEY, &[7, 1, 2, 3], &[]);

    // A start reads a changelog to its end, even if the store is right.
    refused(
        &stage,
        &["a task's meta record", "format 7, this one knows 6"],
    );
    std::fs::remove_dir_all(stage.store()).expect("it is there");
    refused(
        &stage,
        &["a task's meta record", "format 7, this one knows 6"],
    );
}

#[test]
fn a_record_between_roles_from_a_newer_version() {
    let stage = Baseline::get().stage();
    stage.append_raw(
        t::EXECUTIONS,
        b"u1",
        b"whatever it is",
        &[
            (sequence_check::VERSION_HEADER, b"2"),
            (sequence_check::HEADER, b"0/1"),
        ],
    );
    refused(
        &stage,
        &[
            "a record of format 2, this version reads 1",
            "upgrade this role",
        ],
    );
}

#[test]
fn an_instance_directory_of_a_newer_version() {
    let stage = Baseline::get().stage();
    let identity = stage
        .store()
        .parent()
        .expect("the instance")
        .join("identity");
    std::fs::write(&identity, r#"{"format":2,"other":"fields"}"#).expect("written");
    match stage.try_rocks() {
        Err(StoreError::Invalid(text)) => {
            assert!(text.contains("newer version (format 2"), "{text}")
        }
        other => panic!("{:?}", other.err()),
    }
}

#[test]
fn an_embedded_log_with_newer_values() {
    use log_local::{LocalLog, LocalOptions};
    use ports::{Log, LogError};
    let dir = tempfile::tempdir().expect("a directory");
    let table = t::table("");
    let open = || {
        LocalLog::open(
            dir.path(),
            &table,
            LocalOptions {
                tail_bytes: 0,
                ..LocalOptions::default()
            },
        )
    };

    {
        let log = open().expect("a new log");
        log.create_topic(t::TRADES, table.spec(t::TRADES), 1)
            .expect("a topic");
    }

    let refused = |key: &[u8], value: &[u8]| {
        let raw = || {
            rocksdb::DB::open_cf(
                &rocksdb::Options::default(),
                dir.path().join("log"),
                ["default", "kept", "compacted"],
            )
            .expect("opens")
        };

        let kept = raw().get(key).expect("a read");
        raw().put(key, value).expect("a write");
        match open().map(drop) {
            Err(LogError::Invalid(text)) => assert!(
                text.contains("format 2") && text.contains("use the version that wrote it"),
                "{text}"
            ),
            other => panic!("{other:?}"),
        }

        let db = raw();
        match kept {
            Some(kept) => db.put(key, kept).expect("a write"),
            None => db.delete(key).expect("a write"),
        }
    };

    refused(b"t\0\0", br#"{"v":2,"other":"fields"}"#);
    refused(b"og\0\0\0\0\0\0", &[2, 9, 9]);
    refused(b"c\0\0\0\0\0\0", &[2, 9, 9]);
    open().expect("as before");
}
