//! The local log, in memory and embedded, against the promises of the port; and what only the embedded one promises.

#[macro_use]
#[path = "support/conformance.rs"]
mod conformance;

mod memory {
    use std::sync::Mutex;

    use processor::engine::ports::Log;
    use processor::engine::topics::TopicTable;
    use processor::log::local::LocalLog;

    use crate::conformance::Cluster;

    #[derive(Default)]
    struct Memory(Mutex<Option<LocalLog>>);

    impl Cluster for Memory {
        fn log(&self, table: &TopicTable) -> Box<dyn Log> {
            let mut log = self.0.lock().expect("not poisoned");
            Box::new(log.get_or_insert_with(|| LocalLog::in_memory(table)).with_topics(table))
        }
    }

    conformance!(Memory::default);
}

#[cfg(feature = "rocks")]
mod embedded {
    use processor::engine::ports::Log;
    use processor::engine::topics::TopicTable;
    use processor::log::local::{LocalLog, Options};

    use crate::conformance::Cluster;

    /// A log in a directory that goes away with it.
    struct Embedded {
        log: LocalLog,
        _dir: tempfile::TempDir,
    }

    impl Embedded {
        fn new() -> Self {
            let dir = tempfile::tempdir().expect("a directory");
            // A short tail, so that much of what is read comes from the disk.
            let options = Options { tail_bytes: 256, ..Options::default() };
            let log = LocalLog::open(dir.path(), &crate::conformance::table(""), options).expect("the log opens");
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
