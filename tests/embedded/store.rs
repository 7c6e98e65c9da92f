//! The stores: kept data, refusals, and detected damage.

use ports::{StateStore, StoreWrite, Stores};
use store::memory::MemoryStores;

fn put(store: &mut dyn StateStore, changes: &[(&str, Option<&str>)], meta: &str) {
    let mut changes = changes
        .iter()
        .map(|(k, v)| -> StoreWrite<'_> { (k.as_bytes(), v.map(str::as_bytes)) });
    store
        .write(&mut changes, meta.as_bytes())
        .expect("writing works");
}

fn all(store: &dyn StateStore, prefix: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let text = |b: &[u8]| String::from_utf8(b.to_vec()).expect("text");
    store
        .scan(prefix.as_bytes(), &mut |k, v| {
            found.push((text(k), text(v)));
            true
        })
        .expect("scanning works");
    found
}

fn pairs(of: &[(&str, &str)]) -> Vec<(String, String)> {
    of.iter()
        .map(|(k, v)| (k.to_string(), v.to_string()))
        .collect()
}

/// Promises of every store.
fn keeps_its_promises(stores: &dyn Stores) {
    {
        let mut store = stores.open(3).expect("a store opens");
        assert_eq!(store.meta().expect("meta"), None);
        assert!(all(&*store, "").is_empty());
        put(
            &mut *store,
            &[
                ("a/1", Some("x")),
                ("b/1", Some("y")),
                ("a/2", Some("")),
                ("", Some("empty key")),
            ],
            "one",
        );

        put(
            &mut *store,
            &[("a/1", None), ("c", Some("z")), ("c", Some("zz"))],
            "two",
        );
    }

    let store = stores.open(3).expect("it opens again");
    assert_eq!(store.meta().expect("meta"), Some(b"two".to_vec()));
    assert_eq!(
        all(&*store, ""),
        pairs(&[("", "empty key"), ("a/2", ""), ("b/1", "y"), ("c", "zz")])
    );
    assert_eq!(all(&*store, "a/"), pairs(&[("a/2", "")]));
    let mut seen = 0;
    store
        .scan(b"", &mut |_, _| {
            seen += 1;
            seen < 2
        })
        .expect("scanning works");
    assert_eq!(seen, 2);
    let mut value = b"left over".to_vec();
    assert!(!store.get(b"a/1", &mut value).expect("reading works") && value.is_empty());
    assert!(store.get(b"a/2", &mut value).expect("reading works") && value.is_empty());
    assert!(store.get(b"c", &mut value).expect("reading works") && value == b"zz");
    let long = "k".repeat(500);
    drop(store);
    let mut store = stores.open(3).expect("it opens again");
    put(&mut *store, &[(&long, Some("long"))], "three");
    assert!(
        store
            .get(long.as_bytes(), &mut value)
            .expect("reading works")
            && value == b"long"
    );
    for key in [&[0, b'm'][..], &[0], b"m", &[0, b'f']] {
        assert!(
            !store.get(key, &mut value).expect("reading works"),
            "{key:?} reaches something"
        );
    }

    let other = stores.open(4).expect("another opens");
    assert!(all(&*other, "").is_empty());
    drop((store, other));
    stores.quarantine(3).expect("it can be put aside");
    assert_eq!(
        stores
            .open(3)
            .expect("an empty one opens")
            .meta()
            .expect("meta"),
        None
    );
}

#[test]
fn a_store_in_memory_keeps_its_promises() {
    keeps_its_promises(&MemoryStores::default());
}

#[cfg(feature = "rocks")]
mod rocks {
    use std::path::{Path, PathBuf};
    use std::time::Duration;

    use engine::checkpoint::{Checkpoint, StoreMeta};
    use ports::StoreError;
    use processor::runtime::replay::newest_store;
    use roles::Role;
    use store::dir::{InstanceDir, StateIdentity};
    use store::rocks::{RocksStore, RocksStores, SharedMemory};

    use super::*;

    const SOON: Duration = Duration::from_millis(50);

    fn identity() -> StateIdentity {
        StateIdentity::new("cluster-a", "p-", "orders", 6)
    }

    fn open(state: &Path) -> Result<RocksStores, StoreError> {
        RocksStores::open(state, "0", &identity(), SOON, &SharedMemory::default())
    }

    fn refusal<T>(found: Result<T, StoreError>) -> String {
        match found {
            Err(StoreError::Held(text) | StoreError::Invalid(text)) => text,
            Err(other) => panic!("refused, but as: {other}"),
            Ok(_) => panic!("not refused"),
        }
    }

    #[test]
    fn a_store_in_rocksdb_keeps_its_promises() {
        let state = tempfile::tempdir().expect("a directory");
        keeps_its_promises(&open(state.path()).expect("the directory opens"));
    }

    #[test]
    fn a_store_put_aside_stays_to_be_looked_at() {
        let state = tempfile::tempdir().expect("a directory");
        let stores = open(state.path()).expect("the directory opens");
        for n in 1..3 {
            put(
                &mut *stores.open(5).expect("a store opens"),
                &[("k", Some("v"))],
                "m",
            );
            let to = stores.quarantine(5).expect("it can be put aside");
            assert!(to.ends_with(&format!("orders/0/5.quarantine-{n}")), "{to}");
            let old = RocksStore::open_read_only(Path::new(&to)).expect("it can be looked at");
            assert_eq!(all(&old, ""), pairs(&[("k", "v")]));
        }
    }

    #[test]
    fn what_is_wiped_goes_also_if_the_wipe_was_cut_short() {
        let state = tempfile::tempdir().expect("a directory");
        let stores = open(state.path()).expect("it opens");
        for task in [0, 1] {
            put(
                &mut *stores.open(task).expect("a store"),
                &[("a", Some("x"))],
                "one",
            );
        }

        stores.quarantine(1).expect("it can be put aside");
        stores.wipe().expect("it can be wiped");
        let instance = state.path().join("orders").join("0");
        let left = || {
            std::fs::read_dir(&instance)
                .expect("the directory")
                .flatten()
                .filter(|e| e.path().is_dir())
                .count()
        };

        assert_eq!(left(), 0);

        // The state after a process died in the middle.
        put(
            &mut *stores.open(0).expect("a store"),
            &[("a", Some("x"))],
            "one",
        );
        drop(stores);
        std::fs::rename(instance.join("0"), instance.join("0.wiped")).expect("renamed");
        let stores = open(state.path()).expect("it opens");
        assert_eq!(left(), 0);
        assert_eq!(
            stores.open(0).expect("a new one").meta().expect("meta"),
            None
        );
    }

    /// A read-only open lists the files and then opens them, while the owner keeps deleting files.
    /// Regression: the open reported damage, or, worse, showed a store with missing keys.
    #[test]
    fn reading_beside_a_busy_owner_never_fails_or_sees_a_hole() {
        const KEYS: u64 = 500;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("0");

        // With a write-ahead log of 1 MiB, files come and go about twice a second. With less
        // memory, every write would make a table.
        let mut store =
            RocksStore::open(&path, &SharedMemory::new(1 << 20, 24 << 20)).expect("a store");
        let stop = std::sync::atomic::AtomicBool::new(false);

        /// Stops the writer at every exit, also after a failed look.
        struct Stop<'a>(&'a std::sync::atomic::AtomicBool);
        impl Drop for Stop<'_> {
            fn drop(&mut self) {
                self.0.store(true, std::sync::atomic::Ordering::Relaxed);
            }
        }

        let mut write = |n: u64| {
            let key = format!("k{}", n % KEYS);
            let value = [&n.to_le_bytes()[..], &[b'x'; 2_000]].concat();
            let mut changes = std::iter::once((key.as_bytes(), Some(&value[..])));
            store
                .write(&mut changes, &n.to_le_bytes())
                .expect("written");
        };

        (0..KEYS).for_each(&mut write);
        let files = || -> std::collections::BTreeSet<_> {
            std::fs::read_dir(&path)
                .expect("files")
                .flatten()
                .map(|e| e.file_name())
                .collect()
        };

        let mut gone = 0;
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                let mut n = KEYS;
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    write(n);
                    n += 1;
                    std::thread::sleep(Duration::from_micros(200));
                }
            });

            let stopper = Stop(&stop);
            let mut before = files();

            // Looks until files have been deleted several times, at any speed of the machine.
            let began = std::time::Instant::now();
            let mut look = 0;
            while look < 200 || gone <= 3 && began.elapsed() < Duration::from_secs(60) {
                look += 1;
                let store = RocksStore::open_read_only(&path)
                    .unwrap_or_else(|e| panic!("look {look}: {e}"));
                let number =
                    |bytes: &[u8]| u64::from_le_bytes(bytes[..8].try_into().expect("eight bytes"));
                let last = number(&store.meta().expect("meta").expect("a meta record"));
                let mut value = Vec::new();
                for n in last + 1 - KEYS..=last {
                    assert!(
                        store
                            .get(format!("k{}", n % KEYS).as_bytes(), &mut value)
                            .expect("read"),
                        "look {look}: {n} of {last}"
                    );
                    assert_eq!(number(&value), n, "look {look}: of {last}");
                }

                let now = files();
                gone += usize::from(!now.is_superset(&before));
                before = now;
            }

            drop(stopper);
            writer.join().expect("the writer");
        });

        assert!(
            gone > 3,
            "files were deleted between two looks only {gone} times"
        );
    }

    /// The test below runs this; by itself it does nothing.
    #[test]
    fn opener() {
        let Ok(limit) = std::env::var("PROCESSOR_TEST_OPEN_FILES") else {
            return;
        };

        let dir =
            std::path::PathBuf::from(std::env::var("PROCESSOR_TEST_DIR").expect("a directory"));

        // SAFETY: plain calls about this process; the structure is ours and initialised.
        unsafe {
            let limits = libc::rlimit {
                rlim_cur: limit.parse().expect("a number"),
                rlim_max: limit.parse().expect("a number"),
            };

            assert_eq!(libc::setrlimit(libc::RLIMIT_NOFILE, &raw const limits), 0);
        }

        let count: u32 = std::env::var("PROCESSOR_TEST_STORES")
            .expect("a number")
            .parse()
            .expect("a number");
        let stores = RocksStores::open(&dir, "0", &identity(), SOON, &SharedMemory::default());
        let began = std::time::Instant::now();
        let opened = stores.and_then(|stores| {
            let tasks: Vec<u32> = (0..count).collect();
            tasks
                .chunks(stores.together())
                .flat_map(|some| stores.open_all(some))
                .collect::<Result<Vec<_>, _>>()
        });

        let took = began.elapsed();
        let files = || {
            std::fs::read_dir("/proc/self/fd")
                .expect("descriptors")
                .count()
        };

        let all = opened.and_then(|mut all| {
            // As a new incarnation of the loop does with the stores of all its tasks.
            let began = std::time::Instant::now();
            for store in &all {
                assert_eq!(store.meta()?, Some(b"m".to_vec()));
            }

            let again = began.elapsed();
            let mut value = Vec::new();
            let mut most = files();
            for store in &mut all {
                store.write(&mut [(&b"l"[..], Some(&b"w"[..]))].into_iter(), b"n")?;
                most = most.max(files());
            }

            for store in &all {
                assert!(
                    store.get(b"k", &mut value)?
                        && value == b"v"
                        && store.get(b"l", &mut value)?
                        && value == b"w"
                );
                assert_eq!(store.meta()?, Some(b"n".to_vec()));
                most = most.max(files());
            }

            assert!(again < Duration::from_secs(1), "{again:?}");
            Ok(format!(
                "opened {} in {took:?}, asked again in {again:?}, with {most} descriptors",
                all.len()
            ))
        });

        match all {
            Ok(said) => println!("{said}"),
            Err(StoreError::Io(why)) => println!("io: {why}"),
            Err(other) => println!("other: {other}"),
        }
    }

    fn with_descriptors(dir: &Path, limit: usize, stores: u32) -> String {
        let done = std::process::Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "store::rocks::opener",
                "--nocapture",
                "--test-threads",
                "1",
            ])
            .env("PROCESSOR_TEST_OPEN_FILES", limit.to_string())
            .env("PROCESSOR_TEST_STORES", stores.to_string())
            .env("PROCESSOR_TEST_DIR", dir)
            .output()
            .expect("the child runs");

        let said = String::from_utf8_lossy(&done.stdout).into_owned();
        let wanted = |l: &&str| ["opened", "io:", "other:"].iter().any(|w| l.contains(w));
        said.lines()
            .find(wanted)
            .unwrap_or_else(|| panic!("{said}{}", String::from_utf8_lossy(&done.stderr)))
            .to_string()
    }

    /// A store needs five descriptors (its directory twice, lock, MANIFEST, write-ahead log), and
    /// one for each table. If not all stores can be open, the least used are closed. At any limit
    /// the message names the real cause, and never a lock of another process.
    #[test]
    fn two_hundred_stores_work_within_few_descriptors() {
        let dir = tempfile::tempdir().expect("a directory");
        {
            let stores = open(dir.path()).expect("the directory opens");
            for task in 0..200 {
                put(
                    &mut *stores.open(task).expect("a store"),
                    &[("k", Some("v"))],
                    "m",
                );
            }
        }

        let mut worked = 0;
        for limit in (12..60).step_by(6) {
            let few = tempfile::tempdir().expect("a directory");
            {
                let stores = open(few.path()).expect("the directory opens");
                for task in 0..10 {
                    put(
                        &mut *stores.open(task).expect("a store"),
                        &[("k", Some("v"))],
                        "m",
                    );
                }
            }

            let said = with_descriptors(few.path(), limit, 10);
            println!("{limit}: {said}");
            worked += u32::from(said.contains("opened 10"));
            assert!(
                said.contains("opened 10")
                    || said.contains("io:") && said.contains("raise the limit of open files"),
                "{limit}: {said}"
            );
        }

        assert!(
            (1..8).contains(&worked),
            "{worked} of the limits were enough"
        );
        let said = with_descriptors(dir.path(), 1024, 200);
        println!("1024: {said}");
        assert!(said.contains("opened 200"), "{said}");
    }

    /// More stores than may be open: reads and writes work as if all were open.
    #[test]
    fn stores_that_were_closed_to_make_room_open_again_as_they_were() {
        let dir = tempfile::tempdir().expect("a directory");
        let shared = SharedMemory::default().with_open_stores(2);
        let stores = RocksStores::open(dir.path(), "0", &identity(), SOON, &shared)
            .expect("the directory opens");
        keeps_its_promises(&stores);
        let locks = || {
            let links = std::fs::read_dir("/proc/self/fd")
                .expect("descriptors")
                .filter_map(|d| std::fs::read_link(d.ok()?.path()).ok());
            links
                .filter(|l| l.starts_with(dir.path()) && l.ends_with("LOCK"))
                .count()
        };

        let mut all: Vec<_> = stores
            .open_all(&[10, 11, 12, 13, 14])
            .into_iter()
            .map(|s| s.expect("a store"))
            .collect();
        for round in 0..3 {
            for (n, store) in all.iter_mut().enumerate() {
                put(
                    &mut **store,
                    &[
                        (&format!("k{round}"), Some(&format!("{n}"))),
                        ("last", Some(&format!("{round}"))),
                    ],
                    &format!("m{n}-{round}"),
                );

                assert!(locks() <= 2, "{} are open", locks());
            }
        }

        for (n, store) in all.iter().enumerate() {
            assert_eq!(
                store.meta().expect("meta"),
                Some(format!("m{n}-2").into_bytes())
            );
            let number = n.to_string();
            assert_eq!(
                super::all(&**store, ""),
                pairs(&[
                    ("k0", &number),
                    ("k1", &number),
                    ("k2", &number),
                    ("last", "2")
                ])
            );

            // The visitor of a scan may also read.
            let mut seen = 0;
            let mut value = Vec::new();
            let mut look = |key: &[u8], found: &[u8]| {
                seen +=
                    u32::from(store.get(key, &mut value).expect("reading works") && value == found);
                true
            };

            store.scan(b"k", &mut look).expect("scanning works");
            assert_eq!(seen, 3);
            assert!(locks() <= 2, "{} are open", locks());
        }

        // A store that changed while it was closed is not used. The newest two are open, so the
        // first was closed.
        std::fs::remove_dir_all(dir.path().join("orders/0/10")).expect("removed");
        let found = all[0].get(b"last", &mut Vec::new());
        assert!(matches!(found, Err(StoreError::Corrupt(_))), "{found:?}");
    }

    #[test]
    fn state_of_another_world_is_refused() {
        let state = tempfile::tempdir().expect("a directory");
        drop(open(state.path()).expect("the directory opens"));
        let other = |change: fn(&mut StateIdentity)| {
            let mut wanted = identity();
            change(&mut wanted);
            refusal(InstanceDir::open(state.path(), "0", &wanted, SOON))
        };

        let text = other(|i| i.cluster_id = "cluster-b".into());
        assert!(
            text.contains("belongs to cluster cluster-a, this is cluster cluster-b")
                && text.contains("--state")
                && text.contains("delete"),
            "{text}"
        );
        assert!(
            other(|i| i.topic_prefix = "q-".into()).contains("begin with \"p-\", ours with \"q-\"")
        );
        assert!(other(|i| i.partitions = 12).contains("made for 6 partitions, the topics have 12"));
        let path = state.path().join("orders/0/identity");
        std::fs::write(&path, r#"{"format":7,"something":"else"}"#).expect("written");
        assert!(refusal(open(state.path())).contains("newer version (format 7"));
        std::fs::write(&path, "{").expect("written");
        assert!(refusal(open(state.path())).contains("unreadable"));
    }

    #[test]
    fn a_directory_has_one_holder_and_a_successor_waits() {
        let state = tempfile::tempdir().expect("a directory");
        let first = open(state.path()).expect("the directory opens");
        let text = refusal(open(state.path()));
        assert!(
            text.contains(&format!("held by process {}", std::process::id()))
                && text.contains("--instance"),
            "{text}"
        );
        let path: PathBuf = state.path().into();
        let successor = std::thread::spawn(move || {
            RocksStores::open(
                &path,
                "0",
                &identity(),
                Duration::from_secs(60),
                &SharedMemory::default(),
            )
            .map(drop)
        });

        drop(first);
        successor
            .join()
            .expect("no panic")
            .expect("the successor gets it");
    }

    #[test]
    fn a_directory_is_looked_at_before_it_is_locked() {
        let state = tempfile::tempdir().expect("a directory");
        let first = open(state.path()).expect("the directory opens");
        let later = |identity: &StateIdentity| {
            RocksStores::open_later(state.path(), "0", identity, &SharedMemory::default())
        };

        let other = StateIdentity {
            partitions: 12,
            ..identity()
        };

        assert!(
            refusal(later(&other)).contains("made for 6 partitions"),
            "said at once, whoever holds it"
        );
        let stores = later(&identity()).expect("nobody needs to let go of it for that");
        for _ in 0..2 {
            assert!(
                matches!(stores.open(0).map(drop), Err(StoreError::Held(_))),
                "the first still has it"
            );
        }

        drop(first);
        stores.open(0).expect("now it is free");
        assert!(refusal(open(state.path())).contains("held by"), "and taken");
    }

    #[test]
    fn a_running_store_can_be_looked_into() {
        let state = tempfile::tempdir().expect("a directory");
        let stores = open(state.path()).expect("the directory opens");
        let mut store = stores.open(0).expect("a store opens");
        put(&mut *store, &[("k", Some("v"))], "m");
        let path = state.path().join("orders/0/0");
        let mut look = RocksStore::open_read_only(&path).expect("it can be looked into");
        put(&mut *store, &[("k", Some("later"))], "n");
        assert_eq!(
            (all(&look, ""), look.meta().expect("meta")),
            (pairs(&[("k", "v")]), Some(b"m".to_vec()))
        );
        assert!(look.write(&mut std::iter::empty(), b"no").is_err());
        assert!(
            refusal(RocksStore::open_read_only(&state.path().join("nothing")))
                .contains("there is no store")
        );

        // Another part of this process has the store and will release it. The caller waits and does
        // not stop.
        assert!(matches!(
            RocksStore::open(&path, &SharedMemory::default()).map(drop),
            Err(StoreError::Held(_))
        ));
    }

    #[test]
    fn a_store_that_a_full_disk_left_half_made_is_no_store() {
        let state = tempfile::tempdir().expect("a directory");
        let newest = || newest_store(state.path(), Role::Orders, 0);
        let half = state.path().join("orders/2/0");
        std::fs::create_dir_all(&half).expect("made");
        ["LOCK", "LOG", "IDENTITY", "MANIFEST-000001"]
            .into_iter()
            .for_each(|f| std::fs::write(half.join(f), "").expect("written"));
        assert!(newest().expect("nothing to look at").is_none());
        let meta = StoreMeta {
            changelog_offset: 0,
            verified: true,
            meta: Checkpoint {
                transaction: 7,
                ..Checkpoint::default()
            },
        };

        let whole = state.path().join("orders/1/0");
        std::fs::create_dir_all(&whole).expect("made");
        let mut store = RocksStore::open(&whole, &SharedMemory::default()).expect("a store opens");
        store
            .write(&mut std::iter::empty(), &meta.encode())
            .expect("written");
        assert_eq!(
            newest()
                .expect("readable")
                .map(|(path, _, found)| (path, found.meta.transaction)),
            Some((whole, 7))
        );

        // A store that held data must not be skipped.
        std::fs::write(half.join("000008.sst"), "").expect("written");
        assert!(matches!(newest(), Err(StoreError::Corrupt(_))));
    }

    #[test]
    fn damage_is_called_damage() {
        let damaged = |hurt: &dyn Fn(&Path)| {
            let state = tempfile::tempdir().expect("a directory");
            let stores = open(state.path()).expect("the directory opens");

            // Enough to move the write-ahead log into a table.
            let mut store = stores.open(0).expect("a store opens");
            let value = "v".repeat(100_000);
            for i in 0..400 {
                put(
                    &mut *store,
                    &[(
                        &format!("key-{i}-{}", i * 7919 % 1009),
                        Some(&format!("{i}{value}")),
                    )],
                    "m",
                );
            }

            let path = state.path().join("orders/0/0");
            drop(store);

            // A table that is half written at the close is deleted. The next open makes a table
            // from the rest of the write-ahead log.
            for _ in 0..3 {
                drop(stores.open(0).expect("it opens again"));
            }

            assert!(!files(&path, ".sst").is_empty(), "no table was written");
            hurt(&path);
            let found = stores
                .open(0)
                .and_then(|store| store.scan(b"", &mut |_, _| true));
            assert!(matches!(found, Err(StoreError::Corrupt(_))), "{found:?}");
            stores.quarantine(0).expect("it can be put aside");
            stores.open(0).expect("an empty one opens");
        };

        damaged(&|path| std::fs::remove_file(path.join("CURRENT")).expect("removed"));
        damaged(&|path| std::fs::remove_file(&files(path, ".sst")[0]).expect("removed"));
        damaged(&|path| std::fs::remove_file(&files(path, "MANIFEST")[0]).expect("removed"));
        damaged(&|path| {
            let file = &files(path, ".sst")[0];
            let mut bytes = std::fs::read(file).expect("a table");
            for at in (0..bytes.len()).step_by(1_000) {
                bytes[at] ^= 0x40;
            }

            std::fs::write(file, bytes).expect("written");
        });
    }

    fn files(path: &Path, part: &str) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(path)
            .expect("a directory")
            .map(|e| e.expect("an entry").path());
        entries
            .filter(|p| {
                p.file_name()
                    .is_some_and(|n| n.to_string_lossy().contains(part))
            })
            .collect()
    }

    #[test]
    fn a_place_that_cannot_be_written_says_what_to_do() {
        let state = tempfile::tempdir().expect("a directory");
        let file = state.path().join("file");
        std::fs::write(&file, "").expect("written");
        match open(&file) {
            Err(StoreError::Io(text)) => assert!(text.contains("nothing is lost"), "{text}"),
            other => panic!("{:?}", other.err()),
        }
    }
}
