//! The local log, in memory and embedded, against the promises of the port; and the promises of the
//! embedded log alone.

mod memory {
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::sync::{Arc, Mutex, mpsc};
    use std::time::{Duration, Instant};

    use log_local::{LocalLog, LocalOptions};
    use ports::records::Records;
    use ports::topics::TopicTable;
    use ports::{Log, LogError, MemberInput, MemberSpec, Polled, StartOffset};

    use crate::conformance::{Cluster, INPUT, Owned, WIDE, plain, table, tp};

    #[derive(Default)]
    struct Memory(Mutex<Option<LocalLog>>);

    impl Cluster for Memory {
        fn log(&self, table: &TopicTable) -> Box<dyn Log> {
            let mut log = self.0.lock().expect("not poisoned");
            Box::new(
                log.get_or_insert_with(|| LocalLog::in_memory(table))
                    .with_topics(table),
            )
        }
    }

    conformance!(Memory::default);

    const LONG: Duration = Duration::from_secs(60);

    fn with_input(options: LocalOptions) -> LocalLog {
        let storage = Box::new(log_local::Memory::default());
        let log = LocalLog::with_storage(storage, &table(""), options).expect("the log opens");
        log.create_topic(INPUT, table("").spec(INPUT), 1)
            .expect("a topic");
        log
    }

    #[test]
    fn stamps_never_fall_whatever_the_clock_does() {
        let now = Arc::new(AtomicI64::new(0));
        let theirs = now.clone();
        let log = with_input(LocalOptions {
            clock: Arc::new(move || theirs.load(Ordering::Relaxed)),
            ..LocalOptions::default()
        });

        let mut appender = log.appender().expect("a client can write");
        for time in [500, 300, 700] {
            now.store(time, Ordering::Relaxed);
            appender
                .append(&plain(tp(INPUT, 0), "v"))
                .expect("appending works");
            appender.flush(LONG).expect("flushing works");
        }

        let mut reader = log
            .reader(INPUT, &[(0, StartOffset::Start)], false)
            .expect("a reader");
        let mut records = Records::new();
        reader
            .poll(LONG, WIDE, &mut records)
            .expect("reading works");
        let times: Vec<_> = records.iter().map(|r| Owned::of(&r).timestamp_ms).collect();
        assert_eq!(times, [500, 500, 700]);
    }

    /// Regression: one timestamp of next year became the time of its partition until next year,
    /// also after a restart.
    #[test]
    fn a_clock_that_was_far_ahead_is_outlived() {
        const YEAR: i64 = 365 * 86_400_000;
        let storage = log_local::Memory::default();
        let now = Arc::new(AtomicI64::new(0));
        let open = || {
            let theirs = now.clone();
            let options = LocalOptions {
                clock: Arc::new(move || theirs.load(Ordering::Relaxed)),
                ..LocalOptions::default()
            };

            LocalLog::with_storage(Box::new(storage.clone()), &table(""), options)
                .expect("the log opens")
        };

        let append = |log: &LocalLog, time: i64| {
            now.store(time, Ordering::Relaxed);
            let mut appender = log.appender().expect("a client can write");
            appender
                .append(&plain(tp(INPUT, 0), "v"))
                .expect("appending works");
            appender.flush(LONG).expect("flushing works");
        };

        let log = open();
        log.create_topic(INPUT, table("").spec(INPUT), 1)
            .expect("a topic");
        for time in [500, YEAR, YEAR - 60_000, 600, 550] {
            append(&log, time);
        }

        append(&log, 2 * YEAR);
        drop(log);
        now.store(700, Ordering::Relaxed);
        let log = open();
        append(&log, 700);
        append(&log, 800);
        let mut reader = log
            .reader(INPUT, &[(0, StartOffset::Start)], false)
            .expect("a reader");
        let mut records = Records::new();
        reader
            .poll(LONG, WIDE, &mut records)
            .expect("reading works");
        let times: Vec<_> = records.iter().map(|r| Owned::of(&r).timestamp_ms).collect();
        assert_eq!(times, [500, YEAR, YEAR, 600, 600, 2 * YEAR, 700, 800]);

        // A time finds the first record at or after that time, wherever it is; as on Kafka.
        for (time, offset) in [
            (0, 0),
            (500, 0),
            (550, 1),
            (YEAR, 1),
            (YEAR + 1, 5),
            (2 * YEAR + 1, 8),
        ] {
            assert_eq!(
                log.offset_at(tp(INPUT, 0), time).expect("an offset"),
                offset,
                "{time}"
            );
        }
    }

    #[test]
    fn who_sleeps_is_woken() {
        let log = with_input(LocalOptions::default());
        let spec = MemberSpec {
            group: "g".into(),
            instance: "g-0".into(),
            inputs: vec![MemberInput {
                topic: INPUT,
                headers: false,
            }],
            linger: Duration::ZERO,
        };

        let (say, hear) = mpsc::channel();
        let began = Instant::now();
        std::thread::scope(|scope| {
            let log = &log;
            let spec = &spec;
            scope.spawn(move || {
                let mut member = log.join(spec).expect("joins");
                let mut records = Records::new();
                assert_eq!(
                    member
                        .poll(LONG, WIDE, &mut records)
                        .expect("polling works"),
                    Polled::Assigned(vec![tp(INPUT, 0)])
                );
                member.resume(&[(tp(INPUT, 0), 0)]).expect("resumes");
                say.send("resumed").expect("somebody listens");
                while records.is_empty() {
                    member
                        .poll(LONG, WIDE, &mut records)
                        .expect("polling works");
                }

                say.send("got it").expect("somebody listens");
                assert!(matches!(
                    member.poll(LONG, WIDE, &mut records),
                    Err(LogError::Fenced(_))
                ));
            });

            assert_eq!(hear.recv_timeout(LONG), Ok("resumed"));
            log.appender()
                .expect("a client can write")
                .append(&plain(tp(INPUT, 0), "v"))
                .expect("appending works");
            assert_eq!(hear.recv_timeout(LONG), Ok("got it"));
            log.join(spec).expect("joins");
        });

        assert!(began.elapsed() < LONG, "somebody slept to the end");
    }
}

mod embedded {
    use log_local::{LocalLog, LocalOptions};
    use ports::Log;
    use ports::topics::TopicTable;

    use crate::conformance::Cluster;

    /// A log in a temporary directory, deleted together.
    struct Embedded {
        log: LocalLog,
        _dir: tempfile::TempDir,
    }

    impl Embedded {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");

            // A short tail, so that many reads come from the disk.
            let options = LocalOptions {
                tail_bytes: 256,
                ..LocalOptions::default()
            };

            let log = LocalLog::open(dir.path(), &crate::conformance::table(""), options)
                .expect("the log opens");
            Embedded { log, _dir: dir }
        }
    }

    impl Cluster for Embedded {
        fn log(&self, table: &TopicTable) -> Box<dyn Log> {
            Box::new(self.log.with_topics(table))
        }
    }

    conformance!(Embedded::new);
}

/// Promises of a log in a directory.
mod directory {
    use std::io::{BufRead, BufReader};
    use std::path::{Path, PathBuf};
    use std::process::{Child, Command, Stdio};
    use std::time::Duration;

    use log_local::{LocalLog, LocalOptions};
    use ports::records::{Headers, Record, Records};
    use ports::{
        Log, LogError, Member, MemberInput, MemberSpec, Polled, StartOffset, Transaction,
        TransactionOutcome,
    };

    use crate::conformance::{
        CHANGELOG, COUNT, INPUT, OUTPUT, Owned, TABLE, WIDE, plain, table, tp,
    };

    const DIR: &str = "LOG_LOCAL_TEST_DIR";
    const PATIENCE: Duration = Duration::from_secs(60);

    fn open(dir: &Path) -> Result<LocalLog, LogError> {
        LocalLog::open(
            dir,
            &table(""),
            LocalOptions {
                tail_bytes: 4_000,
                tombstones_ms: -1,
                ..LocalOptions::default()
            },
        )
    }

    fn with_topics(dir: &Path) -> LocalLog {
        let log = open(dir).expect("the log opens");
        let table = table("");
        for topic in [INPUT, OUTPUT, CHANGELOG] {
            log.create_topic(topic, table.spec(topic), COUNT)
                .expect("a topic");
        }

        log.create_topic(TABLE, table.spec(TABLE), 1)
            .expect("a topic");
        log
    }

    fn joined(log: &LocalLog) -> Box<dyn Member> {
        let inputs = vec![MemberInput {
            topic: INPUT,
            headers: false,
        }];
        let mut member = log
            .join(&MemberSpec {
                group: "g".into(),
                instance: "g-0".into(),
                inputs,
                linger: Duration::ZERO,
            })
            .expect("joins");

        assert!(matches!(
            member.poll(PATIENCE, WIDE, &mut Records::new()),
            Ok(Polled::Assigned(_))
        ));
        member
    }

    fn read(log: &LocalLog, at: ports::topics::TopicPartition) -> Vec<Owned> {
        let mut reader = log
            .reader(at.topic, &[(at.partition, StartOffset::Start)], true)
            .expect("a reader");
        let mut records = Records::new();
        let mut all = Vec::new();
        while !reader.caught_up() {
            records.clear();
            reader
                .poll(PATIENCE, WIDE, &mut records)
                .expect("reading works");
            all.extend(records.iter().map(|r| Owned::of(&r)));
        }

        all
    }

    fn texts(records: &[Owned]) -> Vec<String> {
        records.iter().map(Owned::text).collect()
    }

    fn write(member: &mut dyn Member, records: &[Record<'_>], offset: u64) {
        let mut outputs = Records::new();
        records.iter().for_each(|r| outputs.push(r));

        // A position must lie within the readable range.
        outputs.push(&plain(tp(INPUT, 0), "in"));
        let outcome = member.transact(&Transaction {
            outputs: &outputs,
            offsets: &[(tp(INPUT, 0), offset)],
        });

        assert!(
            matches!(outcome, TransactionOutcome::Committed { .. }),
            "{outcome:?}"
        );
    }

    #[test]
    fn everything_is_there_after_closing() {
        let dir = tempfile::tempdir().expect("a directory");
        let id = {
            let log = with_topics(dir.path());
            let mut member = joined(&log);
            for i in 0..50 {
                write(
                    &mut *member,
                    &[
                        plain(tp(OUTPUT, 1), &format!("o{i}")),
                        plain(tp(CHANGELOG, 2), &format!("c{i}")),
                    ],
                    i,
                );
            }

            log.cluster_id().expect("an identity")
        };

        let log = open(dir.path()).expect("the log opens again");
        assert_eq!(log.cluster_id().expect("an identity"), id);
        assert_eq!(log.partitions(OUTPUT).expect("an answer"), Some(COUNT));
        assert_eq!(
            texts(&read(&log, tp(OUTPUT, 1))),
            (0..50).map(|i| format!("o{i}")).collect::<Vec<_>>()
        );
        assert_eq!(
            log.group_offsets("g", &[tp(INPUT, 0), tp(INPUT, 1)])
                .expect("offsets"),
            [Some(49), None]
        );
        let before = log.bounds(tp(OUTPUT, 1)).expect("bounds").end;
        write(&mut *joined(&log), &[plain(tp(OUTPUT, 1), "after")], 50);
        let all = read(&log, tp(OUTPUT, 1));
        assert_eq!(
            (all.len(), all[50].offset, all[50].text().as_str()),
            (51, before, "after")
        );
    }

    /// The child process of the next two tests. Without the variable the function does nothing.
    #[test]
    fn child() {
        let Some(dir) = std::env::var_os(DIR).map(PathBuf::from) else {
            return;
        };

        let log = with_topics(&dir);
        let mut member = joined(&log);
        for i in 0.. {
            let text = format!("{i:0>300}");
            write(
                &mut *member,
                &[
                    plain(tp(OUTPUT, 0), &text),
                    plain(tp(OUTPUT, 3), &text),
                    plain(tp(CHANGELOG, 1), &text),
                ],
                i,
            );

            println!("wrote {i}");
        }
    }

    /// Starts the child and waits until it has written `count` transactions; returns the last
    /// number that it printed.
    fn spawn(dir: &Path, count: u64) -> (Child, u64) {
        let mut command = Command::new(std::env::current_exe().expect("this program"));
        command
            .args(["--exact", "log_local::directory::child", "--nocapture"])
            .env(DIR, dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = command.spawn().expect("the child starts");
        let out = BufReader::new(child.stdout.as_mut().expect("its output"));
        let said = out
            .lines()
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("wrote ").and_then(|n| n.parse().ok()))
            .find(|n| *n >= count);
        (child, said.expect("the child writes"))
    }

    #[test]
    fn a_killed_process_loses_nothing_and_leaves_nothing_half_done() {
        let dir = tempfile::tempdir().expect("a directory");
        for round in 1..=3 {
            let (mut child, said) = spawn(dir.path(), 200 * round);
            child.kill().expect("it can be killed");
            child.wait().expect("it dies");
            let log = open(dir.path()).expect("the log opens after a kill");
            let committed =
                log.group_offsets("g", &[tp(INPUT, 0)]).expect("offsets")[0].expect("an offset");
            assert!(
                committed >= said,
                "transaction {said} was said to be written, found {committed}"
            );
            let outputs =
                [tp(OUTPUT, 0), tp(OUTPUT, 3), tp(CHANGELOG, 1)].map(|at| texts(&read(&log, at)));
            assert_eq!(outputs[0], outputs[1]);
            assert_eq!(outputs[0], outputs[2]);
            assert_eq!(
                outputs[0]
                    .last()
                    .map(|t| t.trim_start_matches('0').to_string()),
                Some(committed.to_string())
            );
        }
    }

    #[test]
    fn a_second_process_is_told_whom_to_stop_and_may_look_in() {
        let dir = tempfile::tempdir().expect("a directory");
        let (mut child, said) = spawn(dir.path(), 50);
        let refused = open(dir.path())
            .err()
            .expect("the directory is taken")
            .to_string();
        assert!(
            refused.contains(&format!("in use by process {}", child.id())),
            "{refused}"
        );
        assert!(
            refused.contains("stop it") && refused.contains("Kafka"),
            "{refused}"
        );

        let look = LocalLog::open_read_only(dir.path(), &table("")).expect("looking in works");
        let seen = read(&look, tp(OUTPUT, 0));
        assert!(seen.len() as u64 > said);
        assert_eq!(texts(&seen), texts(&read(&look, tp(OUTPUT, 3))));
        let inputs = vec![MemberInput {
            topic: INPUT,
            headers: false,
        }];
        let join = look
            .join(&MemberSpec {
                group: "g".into(),
                instance: "g-1".into(),
                inputs,
                linger: Duration::ZERO,
            })
            .err()
            .map(|e| e.to_string());

        let append = look.appender().err().map(|e| e.to_string());
        let create = look
            .create_topic(
                crate::conformance::SPARE,
                table("").spec(crate::conformance::SPARE),
                1,
            )
            .err()
            .map(|e| e.to_string());

        for text in [join, append, create] {
            let text = text.expect("nothing can be written");
            assert!(
                text.contains("open for looking only") && text.contains("stop"),
                "{text}"
            );
        }

        child.kill().expect("it can be killed");
        child.wait().expect("it dies");
    }

    #[test]
    fn one_process_cannot_open_it_twice() {
        let dir = tempfile::tempdir().expect("a directory");
        let first = open(dir.path()).expect("the log opens");
        let refused = open(dir.path())
            .err()
            .expect("it is open already")
            .to_string();
        assert!(refused.contains("in use by this very process"), "{refused}");
        drop(first);
        open(dir.path()).expect("it is free again");
    }

    #[test]
    fn a_directory_that_is_not_ours_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let text = |e: Option<LogError>| e.expect("refused").to_string();
        assert!(
            text(LocalLog::open_read_only(dir.path(), &table("")).err())
                .contains("there is no embedded log")
        );
        drop(with_topics(dir.path()));
        let identity = dir.path().join("identity");
        let kept = std::fs::read(&identity).expect("an identity");
        std::fs::write(&identity, r#"{"format":99,"cluster_id":"x"}"#).expect("written");
        assert!(text(open(dir.path()).err()).contains("newer version (format 99"));
        std::fs::write(&identity, "what").expect("written");
        assert!(text(open(dir.path()).err()).contains("unreadable"));
        std::fs::remove_file(&identity).expect("removed");
        assert!(text(open(dir.path()).err()).contains("identity file is gone"));
        std::fs::write(&identity, kept).expect("written");
        open(dir.path()).expect("as it was");
        let file = dir.path().join("file");
        std::fs::write(&file, "").expect("written");
        assert!(text(open(&file.join("log")).err()).contains("permissions"));
    }

    #[test]
    fn compaction_keeps_the_last_record_of_each_key_and_all_offsets() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = tp(CHANGELOG, 0);
        let mut expected = std::collections::BTreeMap::new();
        let (before, log) = {
            let log = with_topics(dir.path());
            let mut member = joined(&log);
            for i in 0..3_000_u64 {
                let key = format!("key-{}", i * 7 % 100);
                let value = format!("value-{i}");
                let gone = i % 10 == 3;
                let value = (!gone).then_some(value);
                let r = |value| Record {
                    at,
                    offset: 0,
                    timestamp_ms: i as i64,
                    key: Some(key.as_bytes()),
                    value,
                    headers: Headers::default(),
                };

                write(&mut *member, &[r(value.as_deref().map(str::as_bytes))], i);
                expected.insert(key.clone(), value);
            }

            (read(&log, at), log)
        };

        let mut reader = log
            .reader(
                CHANGELOG,
                &[(0, StartOffset::Offset(before[1_000].offset))],
                false,
            )
            .expect("a reader");
        let mut records = Records::new();
        reader
            .poll(
                PATIENCE,
                ports::Limits {
                    records: 10,
                    ..WIDE
                },
                &mut records,
            )
            .expect("reading works");

        let done = log.compact().expect("compaction works");
        assert!(done.dropped > 2_500, "{done:?}");
        let check = |log: &LocalLog, dropped: u64| {
            let after = read(log, at);
            assert_eq!(after.len() as u64, 3_000 - dropped);
            let mut state = std::collections::BTreeMap::new();
            for r in &after {
                assert!(before.contains(r), "{r:?} was not there before");
                state.insert(
                    String::from_utf8(r.key.clone().expect("a key")).expect("text"),
                    r.value.clone(),
                );
            }

            assert!(after.windows(2).all(|r| r[0].offset < r[1].offset));
            for (key, value) in &expected {
                assert_eq!(
                    state.get(key).cloned().flatten(),
                    value.clone().map(String::into_bytes),
                    "{key}"
                );
            }

            let end = before.last().expect("records").offset;
            assert_eq!(after.last().expect("records").offset, end);
            assert_eq!(log.bounds(at).expect("bounds").end, end + 1);
            assert_eq!(log.offset_at(at, 2_999).expect("offset"), end);
        };

        check(&log, done.dropped);

        // A reader in the middle continues from there, over the removed records.
        while !reader.caught_up() {
            reader
                .poll(PATIENCE, WIDE, &mut records)
                .expect("reading works");
        }

        assert!(
            records
                .iter()
                .zip(records.iter().skip(1))
                .all(|(a, b)| a.offset < b.offset)
        );
        assert_eq!(
            records.get(records.len() - 1).offset,
            before.last().expect("records").offset
        );
        drop((log, reader));
        let log = open(dir.path()).expect("the log opens again");
        check(&log, done.dropped);

        // No batch is held in memory now, so more may be removed; the newest batch stays.
        let more = log.compact().expect("compaction works").dropped;
        check(&log, done.dropped + more);
    }

    #[test]
    fn a_topic_that_grows_is_compacted_in_the_background() {
        let dir = tempfile::tempdir().expect("a directory");
        let options = LocalOptions {
            tail_bytes: 4_000,
            compact_bytes: 20_000,
            ..LocalOptions::default()
        };

        let log = LocalLog::open(dir.path(), &table(""), options).expect("the log opens");
        for topic in [INPUT, CHANGELOG] {
            log.create_topic(topic, table("").spec(topic), COUNT)
                .expect("a topic");
        }

        let mut member = joined(&log);
        let until = std::time::Instant::now() + PATIENCE;
        for i in 0_u64.. {
            let key = format!("key-{}", i % 10);
            let value = "v".repeat(200);
            let r = Record {
                key: Some(key.as_bytes()),
                ..plain(tp(CHANGELOG, 0), &value)
            };

            write(&mut *member, &[r], i);
            if i % 500 == 0 && (read(&log, tp(CHANGELOG, 0)).len() as u64) < i / 2 {
                return;
            }

            assert!(std::time::Instant::now() < until, "nothing was compacted");
        }
    }

    #[test]
    fn what_a_broker_would_refuse_is_refused() {
        let log = LocalLog::in_memory(&table(""));
        log.create_topic(TABLE, table("").spec(TABLE), 1)
            .expect("a topic");
        let mut appender = log.appender().expect("a client can write");
        let mut refused = |r: &Record<'_>| appender.append(r).expect_err("refused").to_string();
        assert!(
            refused(&Record {
                key: None,
                ..plain(tp(TABLE, 0), "v")
            })
            .contains("without a key")
        );

        assert!(refused(&plain(tp(TABLE, 0), &"v".repeat(600_000))).contains("too large"));
        assert!(refused(&plain(tp(TABLE, 1), "v")).contains("1 partitions"));
        assert!(refused(&plain(tp(INPUT, 0), "v")).contains("does not exist"));
    }
}
