//! The pure parts: what one command, one link of a chain, one event cost without log and store.

use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use processor::domain::account::{Account, Books, House, Position, Settled, Totals};
use processor::domain::chain::{GENESIS, link, payload_hash};
use processor::domain::checks::{Facts, Pricing, Request, order as check};
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
    let request = Request { side: Side::Buy, quantity: Num::Exact(10), pricing: Some(Pricing::Market), deadline_ms: None };
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
                open_max: None,
            };
            let r = check(black_box(&request), &facts).expect("nothing speaks against it");
            account.reserve(&mut position, &r.hold).expect("cash is there");
            let value = PRICE_E4 * r.terms.quantity;
            let fee = r.terms.fee(0, value).expect("within bounds");
            let trade = Settled { side: Side::Buy, quantity: r.terms.quantity, value_e4: value, fee, with_house: true };
            let books = Books { position: &mut position, house: &mut house, totals: &mut totals };
            account.settle(books, &trade, &r.hold).expect("the books balance");
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

/// The matching core under the mix of a published test of another core: of 100 commands 9 are immediate-or-cancel, 3 market-like, 6 replacements, and the
/// rest cancels and adds. The bench walks through a prepared list of commands again and again; the book's size stays about the same.
mod book {
    use super::*;
    use hdrhistogram::Histogram;
    use indexmap::IndexMap;
    use processor::domain::book::{Book, Change, FOREVER, Life, Order, Party, Verdict};
    use rustc_hash::FxBuildHasher;

    const COMMANDS: usize = 1 << 20;
    const RESTING: usize = 1_000;

    #[derive(Clone, Copy)]
    struct Id {
        order: u64,
        user: u32,
    }

    impl Party for Id {
        fn same(&self, other: &Id) -> bool {
            self.user == other.user
        }
    }

    #[derive(Clone, Copy)]
    enum Command {
        Add(Side, i64, i64, Life, bool),
        Cancel(u64),
        Replace(u64, i64),
    }

    /// A small generator of numbers, so that every run does the same.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: u64) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0 % sides
        }
    }

    /// A book with its owner's index from order ids to slots.
    pub struct Desk {
        book: Book<Id>,
        slots: IndexMap<u64, u32, FxBuildHasher>,
        next: u64,
        dice: Dice,
        pub traded: u64,
        pub counts: [u64; 5],
    }

    impl Desk {
        pub fn new() -> Desk {
            let mut desk = Desk {
                book: Book::default(),
                slots: IndexMap::default(),
                next: 0,
                dice: Dice(88_172_645_463_325_252),
                traded: 0,
                counts: [0; 5],
            };
            for _ in 0..200_000 {
                desk.step();
            }
            desk.counts = [0; 5];
            desk
        }

        fn choose(&mut self) -> Command {
            let d = &mut self.dice;
            let side = if d.roll(2) == 0 { Side::Buy } else { Side::Sell };
            // Prices lie around 1000000, closer to the middle more often.
            let away = (d.roll(60) * d.roll(60) / 20) as i64 * 100;
            let passive = if side == Side::Buy { 1_000_000 - 100 - away } else { 1_000_000 + 100 + away };
            let quantity = 1 + d.roll(100) as i64;
            let kind = d.roll(100);
            let known = |d: &mut Dice, slots: &IndexMap<u64, u32, FxBuildHasher>| {
                slots.get_index(d.roll(slots.len().max(1) as u64) as usize).map(|(id, _)| *id)
            };
            match kind {
                0..9 => Command::Add(side, if side == Side::Buy { 1_001_000 } else { 999_000 }, quantity, Life::Ioc, false),
                9..12 => Command::Add(side, if side == Side::Buy { 2_000_000 } else { 1 }, quantity, Life::Ioc, true),
                12..18 => match known(d, &self.slots) {
                    Some(id) => Command::Replace(id, passive),
                    None => Command::Add(side, passive, quantity, Life::Rest, false),
                },
                _ if self.slots.len() > RESTING => match known(d, &self.slots) {
                    Some(id) => Command::Cancel(id),
                    None => Command::Add(side, passive, quantity, Life::Rest, false),
                },
                _ => Command::Add(side, passive, quantity, Life::Rest, false),
            }
        }

        /// The next command of the mix; what choosing it costs is part of what is measured.
        pub fn step(&mut self) {
            let command = self.choose();
            self.run(command);
        }

        fn run(&mut self, command: Command) {
            let (book, slots) = (&mut self.book, &mut self.slots);
            match command {
                Command::Cancel(id) => {
                    self.counts[4] += 1;
                    if let Some(slot) = slots.swap_remove(&id) {
                        black_box(book.remove(slot));
                    }
                }
                Command::Replace(id, price) => {
                    self.counts[2] += 1;
                    let Some(slot) = slots.get(&id).copied() else { return };
                    let Some(order) = book.get(slot).copied() else { return };
                    // A buy stays a buy: the price is moved to its own side.
                    let limit_e4 = match order.side {
                        Side::Buy => price.min(999_900),
                        Side::Sell => price.max(1_000_100),
                    };
                    match book.check_replace(slot, order.quantity(), limit_e4, 0) {
                        Ok(Change::Anew) => {
                            let Some(order) = book.remove(slot) else { return };
                            slots.swap_remove(&id);
                            self.submit(Order { limit_e4, ..order });
                        }
                        other => drop(black_box(other)),
                    }
                }
                Command::Add(side, limit_e4, leaves, life, market) => {
                    self.counts[if market {
                        1
                    } else if life == Life::Ioc {
                        0
                    } else {
                        3
                    }] += 1;
                    self.next += 1;
                    let party = Id { order: self.next, user: (self.next % 1_000) as u32 };
                    self.submit(Order {
                        party,
                        seq: 0,
                        side,
                        market,
                        limit_e4,
                        ceiling_e4: i64::MAX,
                        stop_e4: None,
                        leaves,
                        cum: 0,
                        deadline_ms: FOREVER,
                        life,
                        post_only: false,
                    });
                }
            }
        }

        fn submit(&mut self, order: Order<Id>) {
            let (slots, traded, id) = (&mut self.slots, &mut self.traded, order.party.order);
            let verdict = self.book.submit(order, 0, false, |m| {
                *traded += m.quantity as u64;
                if m.maker.leaves == 0 {
                    slots.swap_remove(&m.maker.party.order);
                }
            });
            if let Verdict::Rests(slot) = verdict {
                slots.insert(id, slot);
            }
        }
    }

    pub fn bench(c: &mut Criterion) {
        let mut group = c.benchmark_group("book");
        let mut desk = Desk::new();
        group.throughput(criterion::Throughput::Elements(1_000));
        group.bench_function("1000 commands of the mix", |b| b.iter(|| (0..1_000).for_each(|_| desk.step())));
        group.finish();
        let mut histogram = Histogram::<u64>::new(3).expect("bounds");
        for _ in 0..COMMANDS {
            let command = desk.choose();
            let start = std::time::Instant::now();
            desk.run(command);
            histogram.saturating_record(start.elapsed().as_nanos() as u64);
        }
        let at = |p| histogram.value_at_quantile(p);
        println!(
            "book: one command takes p50 {} ns, p99 {} ns, p99.9 {} ns, at most {} ns (with two readings of the clock)",
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
