//! RocksDB behind the store port: the waits of the engine, after every commit and for every key
//! outside its cache.

use std::hint::black_box;
use std::time::Duration;

use client::simulate::Rng;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ports::{StateStore, StoreWrite};
use store::rocks::{RocksStore, SharedMemory};

const KEYS: u64 = 500_000;
const BATCH: u64 = 1000;
const VALUE: [u8; 100] = [b'v'; 100];

fn key(n: u64) -> Vec<u8> {
    format!("o/trader-{}/order-{n}", n % 5000).into_bytes()
}

fn write(store: &mut RocksStore, keys: &[Vec<u8>]) {
    let mut changes = keys
        .iter()
        .map(|k| -> StoreWrite<'_> { (k.as_slice(), Some(&VALUE)) });
    store
        .write(&mut changes, b"a meta record")
        .expect("the disk takes it");
}

fn store(c: &mut Criterion) {
    let dir = tempfile::tempdir().expect("a directory");
    let mut store = RocksStore::open(dir.path(), &SharedMemory::default()).expect("a store");
    let mut rng = Rng::new(7);
    for from in (0..KEYS).step_by(BATCH as usize) {
        write(
            &mut store,
            &(from..from + BATCH).map(key).collect::<Vec<_>>(),
        );
    }

    let mut group = c.benchmark_group(format!("RocksDB, {KEYS} keys"));
    let mut value = Vec::new();
    group.bench_function("get, present", |b| {
        b.iter_batched(
            || key(rng.below(KEYS)),
            |k| assert!(store.get(&k, &mut value).expect("reads")),
            criterion::BatchSize::SmallInput,
        );
    });

    group.bench_function("get, absent", |b| {
        let absent = |rng: &mut Rng| key(KEYS + rng.below(KEYS));
        b.iter_batched(
            || absent(&mut rng),
            |k| assert!(!black_box(store.get(&k, &mut value).expect("reads"))),
            criterion::BatchSize::SmallInput,
        );
    });

    group.throughput(Throughput::Elements(BATCH));
    group.bench_function(format!("write, {BATCH} keys and meta"), |b| {
        b.iter_batched(
            || {
                (0..BATCH)
                    .map(|_| key(rng.below(2 * KEYS)))
                    .collect::<Vec<_>>()
            },
            |keys| write(&mut store, &keys),
            criterion::BatchSize::SmallInput,
        );
    });

    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).without_plots();
    targets = store
}
criterion_main!(benches);
