//! A disk that is full at any moment. No mount is needed: a limit on the file size makes a write
//! fail in the middle of the first file that reaches the limit. The limit counts for a whole
//! process. The work therefore runs in a child process: this program, asked for one test.

use std::process::Command;

use engine::instance::FatalError;

use super::stage::Baseline;

const CHILD: &str = "PROCESSOR_TEST_FILES_UP_TO";

fn limit(bytes: u64) {
    // SAFETY: plain calls about this process; the structure is ours and initialised.
    unsafe {
        libc::signal(libc::SIGXFSZ, libc::SIG_IGN);
        let mut now = libc::rlimit {
            rlim_cur: 0,
            rlim_max: 0,
        };

        assert_eq!(libc::getrlimit(libc::RLIMIT_FSIZE, &raw mut now), 0);
        now.rlim_cur = bytes.min(now.rlim_max);
        assert_eq!(libc::setrlimit(libc::RLIMIT_FSIZE, &raw const now), 0);
    }
}

/// The test below runs this; by itself it does nothing.
#[test]
fn child() {
    let Ok(sizes) = std::env::var(CHILD) else {
        return;
    };

    let baseline = Baseline::get();
    let mut stopped = 0;
    let mut unharmed = 0;
    for size in sizes
        .split(',')
        .map(|n| n.parse::<u64>().expect("a number"))
    {
        let stage = baseline.stage();
        let what = format!("no file may be larger than {size}");
        limit(size);
        let mut instance = stage.instance(None);
        stage.probe();
        let ended = stage.drain(&mut instance);
        drop(instance);
        limit(u64::MAX);
        match ended {
            Ok(()) => unharmed += 1,
            Err(FatalError::Failed(why)) => {
                stopped += 1;
                assert!(why.contains("nothing is lost"), "{what}: {why}");
                baseline.check_prefix(&stage, &what);
            }
            Err(other) => panic!("{what}: {other}"),
        }

        // Space is free again.
        let mut again = stage.instance(None);
        stage
            .drain(&mut again)
            .unwrap_or_else(|e| panic!("{what}, then room again: {e}"));
        baseline.check(&stage, &what);
    }

    println!("stopped {stopped}, unharmed {unharmed}");
    assert!(
        stopped > 10 && unharmed > 0,
        "stopped {stopped}, unharmed {unharmed}"
    );
}

#[test]
fn no_room_at_any_write() {
    // Small steps in the range of small records, then larger steps; the largest limit has no
    // effect.
    let mut sizes: Vec<u64> = (0..40)
        .map(|i| i * 37)
        .chain((0..60).map(|i| 1_500 + i * 700))
        .collect();
    sizes.push(1 << 30);
    let list: Vec<String> = sizes.iter().map(u64::to_string).collect();
    let done = Command::new(std::env::current_exe().expect("this program"))
        .args([
            "--exact",
            "storage_faults::disk_full::child",
            "--nocapture",
            "--test-threads",
            "1",
        ])
        .env(CHILD, list.join(","))
        .output()
        .expect("the child runs");

    let said =
        String::from_utf8_lossy(&done.stdout).into_owned() + &String::from_utf8_lossy(&done.stderr);
    assert!(done.status.success() && said.contains("1 passed"), "{said}");
    println!(
        "{}",
        said.lines()
            .find(|l| l.contains("unharmed"))
            .unwrap_or_default()
    );
}
