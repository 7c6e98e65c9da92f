//! The pure parts: what one command, one link of a chain, one event cost without log and store.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use processor::domain::account::{Account, Books, House, Position, Totals};
use processor::domain::chain::{GENESIS, link, payload_hash};
use processor::domain::checks::{Facts, Request, market};
use processor::domain::decimal::Num;
use processor::domain::instrument::Instrument;
use processor::domain::partitioner::partition;
use processor::domain::rate_limit::{Clock, Limit};
use processor::domain::status::{Liquidity, Side, Status};
use processor::wire::encode::{Format, MarketOrder};
use processor::wire::event::{Event, OrderEvent};
use processor::wire::{command, tick};

const OPENING_E4: i64 = 10_000_000_000;
const PRICE_E4: i64 = 1_892_500;

fn order(format: Format) -> Vec<u8> {
    let order =
        MarketOrder { order_id: "1001", user_id: "501", symbol: "AAPL", quantity: 10, side: Side::Buy, timestamp: Some(1_625_159_076) };
    let mut out = Vec::new();
    order.encode(format, &mut out);
    out
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let (json, packed) = (order(Format::Json), order(Format::MessagePack));
    group.bench_function("command, six fields, JSON", |b| b.iter(|| command::decode(black_box(&json)).expect("a command")));
    group.bench_function("command, six fields, MessagePack", |b| b.iter(|| command::decode(black_box(&packed)).expect("a command")));
    let price = br#"{"symbol":"AAPL","price":189.25,"timestamp":1625159080}"#;
    group.bench_function("tick, JSON", |b| b.iter(|| tick::decode(black_box(price)).expect("a tick")));
    group.finish();
}

fn deciding(c: &mut Criterion) {
    let request = Request { side: Side::Buy, quantity: Num::Exact(10), served: true };
    let instrument = Instrument::default();
    c.bench_function("decide and post a market order and its fill", |b| {
        let (mut account, mut position) = (Account::default(), Position::default());
        let (mut house, mut totals) = (House::default(), Totals::default());
        account.deposit(&mut totals, OPENING_E4).expect("within bounds");
        b.iter(|| {
            let facts = Facts {
                instrument: Some(&instrument),
                reference: Some((PRICE_E4, 0)),
                account: &account,
                position: &position,
                now_ms: black_box(1),
                stale_ms: 120_000,
            };
            let reservation = market(black_box(&request), &facts).expect("nothing speaks against it");
            account.reserve_buy(reservation.hold_e4).expect("cash is there");
            let books = Books { position: &mut position, house: &mut house, totals: &mut totals };
            let value = PRICE_E4 * reservation.quantity;
            account.buy_from_house(books, reservation.quantity, value, reservation.hold_e4).expect("the books balance");
            // Or the cash, and at last the turnover of a life, would end before the measurement.
            account.deposit(&mut totals, value).expect("within bounds");
            account.turnover_e4 = 0;
        });
    });
    let limit = Limit::new(100, 200).expect("a rate");
    c.bench_function("rate limit (GCRA)", |b| {
        let (mut clock, mut now_us) = (Clock::default(), 0_i64);
        b.iter(|| {
            now_us += 10_000;
            clock = limit.take(black_box(clock), now_us).expect("within the rate");
        });
    });
    c.bench_function("partition of a key (murmur2)", |b| b.iter(|| partition(black_box(b"trader-1234"), 6)));
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
        b.iter(|| head = link(&head, "order-events/3/123456", &payload_hash(Some(b"501"), Some(black_box(&out[..out.len().min(250)])))));
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(3)).without_plots();
    targets = decoding, deciding, writing
}
criterion_main!(benches);
