//! The core alone: what each kind of order does to a small book.

use super::*;
use crate::domain::reason::Reason;

impl Party for u32 {
    fn same(&self, other: &u32) -> bool {
        self == other
    }
}

fn limit(party: u32, side: Side, price: i64, quantity: i64) -> Order<u32> {
    Order {
        party,
        seq: 0,
        side,
        market: false,
        limit_e4: price,
        ceiling_e4: i64::MAX,
        stop_e4: None,
        leaves: quantity,
        cum: 0,
        deadline_ms: FOREVER,
        life: Life::Rest,
        post_only: false,
    }
}

fn put(b: &mut Book<u32>, o: Order<u32>) -> (Verdict<u32>, Vec<(u32, i64, i64)>) {
    put_at(b, o, 0)
}

fn put_at(b: &mut Book<u32>, o: Order<u32>, now: i64) -> (Verdict<u32>, Vec<(u32, i64, i64)>) {
    let mut matches = Vec::new();
    let v = b.submit(o, now, false, &mut Room::UNBOUNDED.clone(), |m| matches.push((m.maker.party, m.price_e4, m.quantity)));
    b.check(now).expect("a good book");
    (v, matches)
}

use Side::{Buy, Sell};

#[test]
fn x3_a_partly_filled_head_keeps_its_place() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 10));
    put(&mut b, limit(2, Sell, 100, 10));
    put(&mut b, limit(3, Sell, 99, 1));
    let (v, m) = put(&mut b, limit(9, Buy, 100, 5));
    assert_eq!(m, [(3, 99, 1), (1, 100, 4)], "the better price first, at the maker's price");
    assert!(matches!(v, Verdict::Filled(_)));
    let (_, m) = put(&mut b, limit(9, Buy, 100, 8));
    assert_eq!(m, [(1, 100, 6), (2, 100, 2)]);
}

#[test]
fn x1_x2_fok_and_ioc() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 99));
    let fok = Order { life: Life::Fok, ..limit(2, Buy, 100, 100) };
    assert_eq!(put(&mut b, fok), (Verdict::Cancelled(fok, Reason::FokUnfilled), vec![]));
    let (v, m) = put(&mut b, Order { life: Life::Ioc, ..fok });
    assert_eq!(m, [(1, 100, 99)]);
    assert!(matches!(v, Verdict::Cancelled(Order { leaves: 1, cum: 99, .. }, Reason::IocRemainder)));
    assert!(b.is_empty());
}

#[test]
fn x6_oneself_is_no_partner() {
    let mut b = Book::default();
    put(&mut b, limit(2, Sell, 99, 1));
    put(&mut b, limit(1, Sell, 100, 5));
    let (v, m) = put(&mut b, limit(1, Buy, 101, 5));
    assert_eq!(m, [(2, 99, 1)]);
    assert!(matches!(v, Verdict::Cancelled(Order { leaves: 4, .. }, Reason::SelfTradePrevented)));
    let fok = Order { life: Life::Fok, ..limit(1, Buy, 101, 2) };
    assert!(matches!(put(&mut b, fok).0, Verdict::Cancelled(_, Reason::SelfTradePrevented)));
    assert_eq!(b.side(Sell).map(|o| o.leaves).collect::<Vec<_>>(), [5], "the one that rested is untouched");
}

#[test]
fn post_only_and_market() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 5));
    let post = Order { post_only: true, ..limit(2, Buy, 100, 1) };
    assert_eq!(put(&mut b, post).0, Verdict::Rejected(post, Reason::PostOnlyWouldCross));
    assert!(matches!(put(&mut b, Order { limit_e4: 99, ..post }).0, Verdict::Rests(_)));
    let market = Order { market: true, life: Life::Ioc, ..limit(3, Buy, 105, 7) };
    assert!(matches!(put(&mut b, market).0, Verdict::Unfilled(Order { leaves: 2, .. }, Reason::NoLiquidity)));
    put(&mut b, limit(1, Sell, 106, 5));
    assert!(matches!(put(&mut b, market).0, Verdict::Unfilled(Order { leaves: 7, .. }, Reason::PriceBand)));
}

#[test]
fn replacing() {
    let mut b = Book::default();
    let Verdict::Rests(a) = put(&mut b, limit(1, Sell, 100, 10)).0 else { panic!("rests") };
    put(&mut b, limit(2, Sell, 100, 10));
    put(&mut b, limit(9, Buy, 100, 4));
    assert_eq!(b.check_replace(a, 8, 100, 0), Ok(Change::InPlace));
    assert_eq!(b.check_replace(a, 12, 100, 0), Ok(Change::Anew));
    assert_eq!(b.check_replace(a, 8, 101, 0), Ok(Change::Anew));
    assert_eq!(b.check_replace(a, 4, 101, 0), Ok(Change::Fills));
    b.shrink(a, 8);
    assert_eq!(put(&mut b, limit(9, Buy, 100, 5)).1, [(1, 100, 4), (2, 100, 1)], "smaller keeps its place");
    let Verdict::Rests(p) = put(&mut b, Order { post_only: true, ..limit(3, Buy, 90, 1) }).0 else { panic!("rests") };
    assert_eq!(b.check_replace(p, 1, 100, 0), Err(Reason::PostOnlyWouldCross));
    assert_eq!(b.check_replace(77, 1, 100, 0), Err(Reason::TooLateToCancel));
}

#[test]
fn the_dead_do_not_trade() {
    let mut b = Book::default();
    put(&mut b, Order { deadline_ms: 1_000, ..limit(1, Sell, 100, 5) });
    put(&mut b, limit(2, Sell, 101, 5));
    assert_eq!(put_at(&mut b, limit(3, Buy, 101, 1), 999).1, [(1, 100, 1)]);
    assert_eq!(put_at(&mut b, limit(3, Buy, 101, 1), 1_000).1, [(2, 101, 1)], "dead from its deadline on");
    let late = Order { deadline_ms: 1_000, ..limit(4, Sell, 90, 1) };
    assert_eq!(put_at(&mut b, late, 1_000).0, Verdict::Rejected(late, Reason::TooLateToEnter));
    let mut dead = Vec::new();
    b.dead(999, 10, &mut dead);
    assert!(dead.is_empty());
    b.doom();
    put(&mut b, limit(5, Sell, 102, 1));
    assert_eq!(put(&mut b, limit(3, Buy, 102, 2)).1, [(5, 102, 1)], "the doomed do not trade, the new do");
    b.dead(1_000, 1, &mut dead);
    assert_eq!(dead.iter().map(|s| b.remove(*s).expect("there").party).collect::<Vec<_>>(), [1]);
    assert!(b.is_doomed());
    b.dead(1_000, 10, &mut dead);
    assert_eq!(dead.iter().map(|s| b.remove(*s).expect("there").party).collect::<Vec<_>>(), [2]);
    assert!(!b.is_doomed());
    assert_eq!(b.side(Buy).map(|o| o.party).collect::<Vec<_>>(), [3]);
}

#[test]
fn stops_fire_in_the_order_they_are_reached() {
    let mut b = Book::default();
    let stop = |party, side, stop| Order { stop_e4: Some(stop), market: true, ..limit(party, side, 1_000, 1) };
    for (party, side, at) in [(1, Buy, 105), (2, Buy, 103), (3, Buy, 105), (4, Sell, 95), (5, Sell, 97)] {
        assert!(!b.would_fire(side, at, Some(100)));
        put(&mut b, stop(party, side, at));
    }
    b.price(102);
    assert!(!b.has_fired());
    b.price(105);
    b.price(101);
    assert!(b.would_fire(Buy, 104, Some(101)), "armed stops are not done yet");
    let fired: Vec<u32> = std::iter::from_fn(|| b.next_fired(0)).map(|o| o.party).collect();
    assert_eq!((fired, b.has_fired()), (vec![2, 1, 3], false));
    b.price(95);
    assert_eq!(std::iter::from_fn(|| b.next_fired(0)).map(|o| o.party).collect::<Vec<_>>(), [5, 4]);
}

/// The same orders put to two books, to one of them in steps of few trades and looks: all comes out the same, whatever dies on the way.
#[test]
fn what_goes_on_in_steps_comes_out_as_in_one() {
    let mut seed = 1_u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let (mut whole, mut parts, mut pauses, mut now) = (Book::default(), Book::default(), [0, 0], 0);
    for n in 0..60_000_u32 {
        now += below(3) as i64;
        if below(200) == 0 {
            // A clock that was ahead is put right, and some of the dead live again.
            now -= below(60) as i64;
        }
        let side = if below(2) == 0 { Buy } else { Sell };
        let big = below(20) == 0;
        let life = [Life::Rest, Life::Ioc, Life::Fok][if big { below(3) } else { 0 } as usize];
        let order = Order {
            life,
            deadline_ms: if below(4) == 0 { now + below(60) as i64 } else { FOREVER },
            market: big && life != Life::Rest && below(2) == 0,
            post_only: !big && below(3) == 0,
            ..limit(n % 40, side, 100 + below(20) as i64, 1 + below(if big { 60 } else { 4 }) as i64)
        };
        let backstop = below(2) == 0;
        let (mut due, mut got) = (Vec::new(), Vec::new());
        let told =
            |into: &mut Vec<_>, m: Match<'_, u32>| into.push((m.taker.leaves, m.maker.party, m.maker.leaves, m.price_e4, m.quantity));
        let verdict = whole.submit(order, now, backstop, &mut Room::UNBOUNDED.clone(), |m| told(&mut due, m));
        let step = Room { fills: 1 + below(3) as usize, looks: 1 + below(3) as usize };
        let mut outcome = parts.submit(order, now, backstop, &mut step.clone(), |m| told(&mut got, m));
        while let Verdict::Pauses(order, stage) = outcome {
            pauses[usize::from(stage == Stage::Trades)] += 1;
            if below(8) == 0 {
                parts = again(&parts);
            }
            let before = got.len();
            outcome = parts.go_on(order, stage, now, backstop, &mut step.clone(), |m| told(&mut got, m));
            assert!(got.len() - before <= step.fills, "a step does no more than it may");
        }
        // Slots are a book's own business.
        let same = matches!((&outcome, &verdict), (Verdict::Rests(_), Verdict::Rests(_))) || outcome == verdict;
        assert!(same, "order {n}: {outcome:?} where {verdict:?} was due");
        assert_eq!(got, due, "order {n}");
        // Now and then some of the dead are cleared away, and once in a while all are given up for lost.
        if below(50) == 0 {
            for book in [&mut whole, &mut parts] {
                let mut dead = Vec::new();
                book.dead(now, 10, &mut dead);
                for slot in dead {
                    book.remove(slot);
                }
            }
        }
        if below(5_000) == 0 {
            whole.doom();
            parts.doom();
        }
        if n % 16 == 0 {
            for book in [&whole, &parts] {
                // A bid that came while an ask was dead may stand above the ask when time falls.
                assert!(matches!(book.check(now), Ok(()) | Err("the book is crossed")), "order {n}: {:?}", book.check(now));
            }
            for side in [Buy, Sell] {
                assert!(whole.side(side).eq(parts.side(side)), "order {n}");
            }
        }
    }
    assert!(pauses.into_iter().all(|n| n > 500), "{pauses:?} pauses");
}

/// The book as a restart brings it back.
fn again(book: &Book<u32>) -> Book<u32> {
    let mut orders: Vec<_> = [Buy, Sell].into_iter().flat_map(|side| book.side(side).chain(book.stops(side))).copied().collect();
    orders.sort_by_key(|o| o.seq);
    let mut again = Book::new(book.head());
    for order in orders {
        again.restore(order);
    }
    again
}
