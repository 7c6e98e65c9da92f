//! Damage that no checksum shows: a lost write, or a well-formed but wrong value. The scrub finds
//! such damage, and reports none in a good store.

use std::time::Duration;

use ports::{StoreWrite, Stores};

use super::stage::{Baseline, Stage};

const OFTEN: Option<Duration> = Some(Duration::from_millis(1));

/// Changes the store without the role's knowledge.
fn tamper(stage: &Stage, key: &[u8], value: Option<&[u8]>) {
    let stores = stage.rocks();
    let mut store = stores.open(0).expect("the store opens");
    let meta = store.meta().expect("a read").expect("a meta record");
    let change: StoreWrite<'_> = (key, value);
    store
        .write(&mut std::iter::once(change), &meta)
        .expect("a write");
}

fn value_of(stage: &Stage, key: &[u8]) -> Vec<u8> {
    let stores = stage.rocks();
    let mut value = Vec::new();
    assert!(
        stores
            .open(0)
            .expect("the store opens")
            .get(key, &mut value)
            .expect("a read"),
        "the key is there"
    );

    value
}

#[test]
fn a_wrong_value_a_lost_one_and_a_strange_one_are_found() {
    let key = b"au7";
    let baseline = Baseline::get();
    let mut wrong = value_of(&baseline.stage(), key);
    wrong[1] ^= 2;
    type Case<'a> = (&'a str, &'a [u8], Option<&'a [u8]>);
    let cases: [Case<'_>; 3] = [
        ("a wrong balance", key, Some(&wrong)),
        ("a lost account", key, None),
        ("an account of nobody", b"azzz", Some(&wrong)),
    ];
    for (what, key, value) in cases {
        let stage = baseline.stage();
        tamper(&stage, key, value);
        let mut instance = stage.instance(OFTEN);
        stage
            .step_until(&mut instance, |i| i.counters().recoveries == 1)
            .expect("it recovers");
        stage
            .step_until(&mut instance, |i| i.phase() == "running")
            .expect("and runs");
        assert_eq!(stage.put_aside(), 1, "{what}");
        stage.probe();
        stage.drain(&mut instance).expect("and answers");
        baseline.check(&stage, what);
        let before = instance.counters().scrubs;
        stage
            .step_until(&mut instance, |i| i.counters().scrubs > before + 1)
            .expect("now all is right");
        assert_eq!(
            (instance.counters().recoveries, stage.put_aside()),
            (1, 1),
            "{what}"
        );
    }
}

#[test]
fn a_scrub_that_is_not_asked_for_does_not_happen() {
    let stage = Baseline::get().stage();
    tamper(&stage, b"azzz", Some(b"\x01"));
    let mut instance = stage.instance(None);
    stage.probe();
    stage
        .drain(&mut instance)
        .expect("nobody looks at that key");
    assert_eq!((instance.counters().scrubs, stage.put_aside()), (0, 0));
}

/// Endless rounds while transactions change both checked and unchecked parts of the store.
#[test]
fn a_right_store_under_load_is_found_right() {
    let baseline = Baseline::get();
    let stage = baseline.stage();
    let mut instance = stage.instance(OFTEN);
    stage
        .step_until(&mut instance, |i| i.counters().scrubs > 0)
        .expect("a round while idle");
    stage.probe();
    stage.drain(&mut instance).expect("answers");
    for n in 0..3_000 {
        stage.deposit(n % 120, 7_000_000 + n, 5);
        if n % 10 == 0 {
            instance.step().expect("no stop");
        }
    }

    stage.drain(&mut instance).expect("answers");
    let counters = instance.counters();
    println!(
        "{} stores looked through beside {} transactions",
        counters.scrubs, counters.transactions
    );
    assert!(
        counters.scrubs > 2 && counters.transactions > 50,
        "{counters:?}"
    );
    assert_eq!((counters.recoveries, stage.put_aside()), (0, 0));
}
