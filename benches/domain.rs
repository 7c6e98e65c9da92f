//! Cost of the pure parts: one command, one link of a chain, one event, without log and store.

#[path = "support/desk.rs"]
mod desk;

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use domain::account::{Account, Ledger, TradeLeg};
use domain::chain::{GENESIS, link, meta_hash, payload_hash};
use domain::checks::{Bands, Facts, OrderRequest, Pricing, order as check};
use domain::decimal::Num;
use domain::instrument::Instrument;
use domain::price::FreshnessLimits;
use domain::rate_limit::{Limit, UserBucket};
use domain::status::{Liquidity, Side, Status};
use ports::partitioner::partition;
use wire::encode::{Encoding, MarketOrder};
use wire::event::{Event, OrderEvent};
use wire::{command, tick};

const OPENING_E4: i64 = 10_000_000_000;
const PRICE_E4: i64 = 1_892_500;

fn order(format: Encoding) -> Vec<u8> {
    let order = MarketOrder {
        order_id: "1001",
        user_id: "501",
        symbol: "AAPL",
        quantity: 10,
        side: Side::Buy,
        timestamp: Some(1_625_159_076),
    };

    let mut out = Vec::new();
    order.encode(format, &mut out);
    out
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let json = order(Encoding::Json);
    let packed = order(Encoding::MessagePack);
    group.bench_function("command, six fields, JSON", |b| {
        b.iter(|| command::decode(black_box(&json)).expect("a command"))
    });

    group.bench_function("command, six fields, MessagePack", |b| {
        b.iter(|| command::decode(black_box(&packed)).expect("a command"))
    });

    let price = br#"{"symbol":"AAPL","price":189.25,"timestamp":1625159080}"#;
    group.bench_function("tick, JSON", |b| {
        b.iter(|| tick::decode(black_box(price)).expect("a tick"))
    });

    group.finish();
}

fn deciding(c: &mut Criterion) {
    let request = OrderRequest {
        side: Side::Buy,
        quantity: Num::Exact(10),
        pricing: Some(Pricing::Market),
        deadline_ms: None,
    };

    let instrument = Instrument::default();
    c.bench_function("decide and post a market order and its fill", |b| {
        let mut account = Account::default();
        let mut ledger = Ledger::default();
        account
            .deposit(&mut ledger.totals, OPENING_E4)
            .expect("within bounds");
        b.iter(|| {
            let facts = Facts {
                instrument: Some(&instrument),
                reference: Some((PRICE_E4, 0)),
                account: &account,
                position: &ledger.position,
                now_ms: black_box(1),
                stale: FreshnessLimits::new(120_000, true),
                open_max: None,
                bands: Bands::BySide,
                margin: true,
            };

            let r = check(black_box(&request), &facts).expect("nothing speaks against it");
            account
                .reserve(&mut ledger.position, &r.hold)
                .expect("cash is there");
            let value = PRICE_E4 * r.terms.quantity;
            let fee = r.terms.fee(0, value).expect("within bounds");
            let trade = TradeLeg {
                side: Side::Buy,
                quantity: r.terms.quantity,
                value_e4: value,
                fee,
                with_house: true,
                keeps: true,
            };

            account
                .settle(&mut ledger, &trade, &r.hold)
                .expect("the books balance");

            // Refill the cash and reset the turnover: otherwise both would reach their limits
            // before the end of the measurement.
            account
                .deposit(&mut ledger.totals, value)
                .expect("within bounds");
            account.turnover_e4 = 0;
        });
    });

    let limit = Limit::new(100, 200).expect("a rate");
    c.bench_function("rate limit (GCRA)", |b| {
        let mut clock = UserBucket::default();
        let mut now_us = 0_i64;
        b.iter(|| {
            now_us += 10_000;
            clock = limit
                .take(black_box(clock), now_us)
                .expect("within the rate");
        });
    });

    c.bench_function("partition of a key (murmur2)", |b| {
        b.iter(|| partition(black_box(b"trader-1234"), 6))
    });
}

fn writing(c: &mut Criterion) {
    let event = OrderEvent {
        user_seq: 4,
        time_us: 1_625_159_076_000_000,
        cash_available_e4: 9_981_075_000,
        order_id: Some("1001"),
        cause_id: Some("1001"),
        symbol: Some("AAPL"),
        side: Some(Side::Buy),
        quantity: Some(10),
        cum_quantity: Some(10),
        leaves_quantity: Some(0),
        status: Some(Status::Filled),
        trade_id: Some("3-17"),
        last_quantity: Some(10),
        last_price_e4: Some(PRICE_E4),
        fee_e4: Some(0),
        liquidity: Some(Liquidity::Taker),
        ..OrderEvent::new(Event::OrderFilled, "501")
    };

    let mut out = Vec::new();
    c.bench_function("encode an event (OrderFilled)", |b| {
        b.iter(|| {
            out.clear();
            black_box(&event).encode(&mut out);
        });
    });

    c.bench_function("one link of an audit chain (250 bytes)", |b| {
        let mut head = GENESIS;
        let headers = [
            ("type", &b"OrderFilled"[..]),
            ("v", b"1"),
            ("src", b"executions/3/123456"),
            ("n", b"0"),
        ];
        b.iter(|| {
            let meta = meta_hash(1_700_000_000_000, true, true, headers.into_iter());
            head = link(
                &head,
                "order-events/3/123456",
                &payload_hash(Some(b"501"), Some(black_box(&out[..out.len().min(250)]))),
                Some(&meta),
            );
        });
    });
}

/// The matching core. The machine may be busy, so the bench also measures the processor time of the
/// thread.
mod book {
    use super::*;
    use crate::desk::Desk;
    use hdrhistogram::Histogram;

    const COMMANDS: u64 = 10_000_000;

    fn processor_ns() -> u64 {
        let mut t = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };

        // SAFETY: the pointer is to a local that outlives the call.
        let failed = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut t) };
        assert_eq!(failed, 0, "this system has no such clock");
        t.tv_sec as u64 * 1_000_000_000 + t.tv_nsec as u64
    }

    pub fn bench(c: &mut Criterion) {
        let mut group = c.benchmark_group("book");
        let mut desk = Desk::new();
        group.throughput(criterion::Throughput::Elements(1_000));
        group.bench_function("1000 commands of the mix", |b| {
            b.iter(|| (0..1_000).for_each(|_| desk.step()))
        });

        group.finish();
        let start = processor_ns();
        (0..COMMANDS).for_each(|_| desk.step());
        let each = (processor_ns() - start) as f64 / COMMANDS as f64;
        println!(
            "book: {each:.0} ns of processor time per command, {:.1} million commands per second of it",
            1_000.0 / each
        );
        let mut histogram = Histogram::<u64>::new_with_max(1_000_000_000, 3).expect("bounds");
        for _ in 0..COMMANDS / 10 {
            let command = desk.choose();
            let start = std::time::Instant::now();
            desk.run(command);
            histogram.saturating_record(start.elapsed().as_nanos() as u64);
        }

        let at = |p| histogram.value_at_quantile(p);
        println!(
            "book: one command takes p50 {} ns, p99 {} ns, p99.9 {} ns, at most {} ns (by the wall, with two readings of the clock)",
            at(0.5),
            at(0.99),
            at(0.999),
            histogram.max()
        );

        let [ioc, market, replace, add, cancel] = desk.counts;
        let all: u64 = desk.counts.iter().sum();
        let share = |n: u64| n * 1_000 / all.max(1);
        println!(
            "book: of 1000 commands {} ioc, {} market-like, {} replace, {} add, {} cancel; {} shares traded",
            share(ioc),
            share(market),
            share(replace),
            share(add),
            share(cancel),
            desk.traded
        );
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).without_plots();
    targets = decoding, deciding, writing, book::bench
}
criterion_main!(benches);
