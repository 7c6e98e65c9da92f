//! Tests of the matching core alone: effects of each kind of order on a small book.

use super::*;
use crate::reason::Reason;

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

fn put(b: &mut Book<u32>, o: Order<u32>) -> (SubmitOutcome<u32>, Vec<(u32, i64, i64)>) {
    put_at(b, o, 0)
}

fn put_at(
    b: &mut Book<u32>,
    o: Order<u32>,
    now: i64,
) -> (SubmitOutcome<u32>, Vec<(u32, i64, i64)>) {
    let mut matches = Vec::new();
    let v = with_house(b, o, now, HouseQuote::Away, |m| {
        matches.push((m.maker.expect("no house").party, m.price_e4, m.quantity))
    });

    (v, matches)
}

fn with_house(
    b: &mut Book<u32>,
    o: Order<u32>,
    now: i64,
    mut house: HouseQuote,
    told: impl FnMut(Match<'_, u32>),
) -> SubmitOutcome<u32> {
    let v = b.submit(o, now, &mut house, &mut StepBudget::UNBOUNDED.clone(), told);
    b.check(now).expect("a good book");
    v
}

use Side::{Buy, Sell};

#[test]
fn x3_a_partly_filled_head_keeps_its_place() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 10));
    put(&mut b, limit(2, Sell, 100, 10));
    put(&mut b, limit(3, Sell, 99, 1));
    let (v, m) = put(&mut b, limit(9, Buy, 100, 5));
    assert_eq!(
        m,
        [(3, 99, 1), (1, 100, 4)],
        "the better price first, at the maker's price"
    );
    assert!(matches!(v, SubmitOutcome::Filled(_)));
    let (_, m) = put(&mut b, limit(9, Buy, 100, 8));
    assert_eq!(m, [(1, 100, 6), (2, 100, 2)]);
}

#[test]
fn x1_x2_fok_and_ioc() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 99));
    let fok = Order {
        life: Life::Fok,
        ..limit(2, Buy, 100, 100)
    };

    assert_eq!(
        put(&mut b, fok),
        (SubmitOutcome::Cancelled(fok, Reason::FokUnfilled), vec![])
    );
    let (v, m) = put(
        &mut b,
        Order {
            life: Life::Ioc,
            ..fok
        },
    );

    assert_eq!(m, [(1, 100, 99)]);
    assert!(matches!(
        v,
        SubmitOutcome::Cancelled(
            Order {
                leaves: 1,
                cum: 99,
                ..
            },
            Reason::IocRemainder
        )
    ));

    assert!(b.is_empty());
}

#[test]
fn x6_oneself_is_no_partner() {
    let mut b = Book::default();
    put(&mut b, limit(2, Sell, 99, 1));
    put(&mut b, limit(1, Sell, 100, 5));
    let (v, m) = put(&mut b, limit(1, Buy, 101, 5));
    assert_eq!(m, [(2, 99, 1)]);
    assert!(matches!(
        v,
        SubmitOutcome::Cancelled(Order { leaves: 4, .. }, Reason::SelfTradePrevented)
    ));
    let fok = Order {
        life: Life::Fok,
        ..limit(1, Buy, 101, 2)
    };

    assert!(matches!(
        put(&mut b, fok).0,
        SubmitOutcome::Cancelled(_, Reason::SelfTradePrevented)
    ));
    assert_eq!(
        b.side(Sell).map(|o| o.leaves).collect::<Vec<_>>(),
        [5],
        "the one that rested is untouched"
    );
}

#[test]
fn post_only_and_market() {
    let mut b = Book::default();
    put(&mut b, limit(1, Sell, 100, 5));
    let post = Order {
        post_only: true,
        ..limit(2, Buy, 100, 1)
    };

    assert_eq!(
        put(&mut b, post).0,
        SubmitOutcome::Rejected(post, Reason::PostOnlyWouldCross)
    );
    assert!(matches!(
        put(
            &mut b,
            Order {
                limit_e4: 99,
                ..post
            }
        )
        .0,
        SubmitOutcome::Rests(_)
    ));

    let market = Order {
        market: true,
        life: Life::Ioc,
        ..limit(3, Buy, 105, 7)
    };

    assert!(matches!(
        put(&mut b, market).0,
        SubmitOutcome::Unfilled(Order { leaves: 2, .. }, Reason::NoLiquidity)
    ));
    put(&mut b, limit(1, Sell, 106, 5));
    assert!(matches!(
        put(&mut b, market).0,
        SubmitOutcome::Unfilled(Order { leaves: 7, .. }, Reason::PriceBand)
    ));
}

/// One order after another meets a book with asks of user 1 at 100, 102 and 104, five each, and a
/// house that asks 102 or less.
#[test]
fn the_house_comes_behind_users_at_its_price() {
    let none = i64::MAX;
    let all = i64::MAX;
    type Fills = &'static [(u32, i64, i64)];
    let order = |party, price, quantity| limit(party, Buy, price, quantity);
    let rest = |leaves| (leaves, Life::Rest);

    // The order, the house's price and maximum, the fills (party 0: the house), and the rest.
    type Case = (&'static str, Order<u32>, i64, i64, Fills, (i64, Life));
    let cases: &[Case] = &[
        (
            "users first, then the house",
            order(2, 104, 20),
            102,
            all,
            &[(1, 100, 5), (1, 102, 5), (0, 102, 10)],
            rest(0),
        ),
        (
            "never worse than the house",
            order(2, 104, 9),
            101,
            all,
            &[(1, 100, 5), (0, 101, 4)],
            rest(0),
        ),
        (
            "the house first where it is better",
            order(2, 104, 9),
            99,
            all,
            &[(0, 99, 9)],
            rest(0),
        ),
        (
            "what it has no more of comes from users",
            order(2, 104, 20),
            101,
            3,
            &[(1, 100, 5), (0, 101, 3), (1, 102, 5), (1, 104, 5)],
            rest(2),
        ),
        (
            "a limit below its price rests",
            order(2, 98, 3),
            99,
            all,
            &[],
            rest(3),
        ),
        (
            "one's own order behind the house",
            order(1, 104, 3),
            99,
            all,
            &[(0, 99, 3)],
            rest(0),
        ),
        (
            "all or nothing, with the house",
            Order {
                life: Life::Fok,
                ..order(2, 104, 50)
            },
            101,
            all,
            &[(1, 100, 5), (0, 101, 45)],
            rest(0),
        ),
        (
            "and behind it",
            Order {
                life: Life::Fok,
                ..order(2, 104, 16)
            },
            101,
            1,
            &[(1, 100, 5), (0, 101, 1), (1, 102, 5), (1, 104, 5)],
            rest(0),
        ),
        (
            "one too many",
            Order {
                life: Life::Fok,
                ..order(2, 104, 17)
            },
            101,
            1,
            &[],
            (17, Life::Fok),
        ),
        (
            "beyond the limit it does not count",
            Order {
                life: Life::Fok,
                ..order(2, 100, 6)
            },
            101,
            none,
            &[],
            (6, Life::Fok),
        ),
        (
            "at once, and the rest is gone",
            Order {
                life: Life::Ioc,
                ..order(2, 101, 9)
            },
            101,
            1,
            &[(1, 100, 5), (0, 101, 1)],
            (3, Life::Ioc),
        ),
    ];

    for (what, order, price_e4, left, fills, (leaves, life)) in cases {
        let mut b = Book::default();
        [100, 102, 104]
            .into_iter()
            .for_each(|price| drop(put(&mut b, limit(1, Sell, price, 5))));
        let mut got = Vec::new();
        let house = HouseQuote::At(Quote {
            price_e4: *price_e4,
            left: *left,
        });

        let verdict = with_house(&mut b, *order, 0, house, |m| {
            got.push((m.maker.map_or(0, |o| o.party), m.price_e4, m.quantity))
        });

        assert_eq!(got, *fills, "{what}");
        match (verdict, life) {
            (SubmitOutcome::Filled(_), _) => assert_eq!(*leaves, 0, "{what}"),
            (SubmitOutcome::Rests(slot), Life::Rest) => {
                assert_eq!(b.get(slot).map(|o| o.leaves), Some(*leaves), "{what}")
            }
            (SubmitOutcome::Cancelled(o, _), Life::Ioc | Life::Fok) => {
                assert_eq!(o.leaves, *leaves, "{what}")
            }
            (other, _) => panic!("{what}: {other:?}"),
        }
    }
}

#[test]
fn post_only_orders_that_the_house_reaches_are_refused() {
    let mut b = Book::default();
    let house = HouseQuote::At(Quote {
        price_e4: 100,
        left: 1,
    });

    let post = Order {
        post_only: true,
        ..limit(2, Buy, 100, 5)
    };

    assert_eq!(
        with_house(&mut b, post, 0, house, |_| panic!("a trade")),
        SubmitOutcome::Rejected(post, Reason::PostOnlyWouldCross)
    );
    let SubmitOutcome::Rests(slot) = with_house(
        &mut b,
        Order {
            limit_e4: 99,
            ..post
        },
        0,
        house,
        |_| panic!("a trade"),
    ) else {
        panic!("rests")
    };

    assert_eq!(
        b.check_replace(slot, 5, 100, 0, &house),
        Err(Reason::PostOnlyWouldCross)
    );
    assert_eq!(
        b.check_replace(
            slot,
            5,
            100,
            0,
            &HouseQuote::At(Quote {
                price_e4: 101,
                left: 1
            })
        ),
        Ok(ReplaceKind::Anew)
    );

    let poor = Order {
        ceiling_e4: 90,
        ..limit(3, Sell, 80, 5)
    };

    b.remove(slot);
    assert_eq!(
        with_house(&mut b, poor, 0, house, |_| panic!("a trade")),
        SubmitOutcome::Cancelled(poor, Reason::PriceBand)
    );
    let market = Order {
        market: true,
        life: Life::Ioc,
        ..limit(3, Buy, 99, 5)
    };

    assert_eq!(
        with_house(&mut b, market, 0, house, |_| panic!("a trade")),
        SubmitOutcome::Unfilled(market, Reason::PriceBand)
    );
    assert_eq!(
        with_house(
            &mut b,
            market,
            0,
            HouseQuote::At(Quote {
                price_e4: 100,
                left: 0
            }),
            |_| panic!("a trade")
        ),
        SubmitOutcome::Unfilled(market, Reason::NoLiquidity),
        "it has given all it gives"
    );
}

/// Recorder of events that forbids one party to trade.
#[derive(Default)]
struct Told {
    off: Option<u32>,
    ended: Vec<u32>,
    trades: Vec<(u32, i64, i64, i64)>,
}

impl Watch<u32> for &mut Told {
    fn may_trade(&mut self, order: &Order<u32>) -> bool {
        Some(order.party) != self.off
    }

    fn ended(&mut self, order: Order<u32>) {
        self.ended.push(order.party);
    }

    fn matched(&mut self, m: Match<'_, u32>) {
        self.trades.push((
            m.maker.map_or(0, |o| o.party),
            m.price_e4,
            m.quantity,
            m.taker.leaves,
        ));
    }

    fn crossed(&mut self, o: &Order<u32>, quantity: i64) {
        self.trades.push((o.party, o.limit_e4, quantity, o.leaves));
    }
}

#[test]
fn who_may_not_trade_leaves_when_the_turn_comes() {
    let meets = |order: Order<u32>, fills: usize| {
        let mut b = Book::default();
        let mut told = Told {
            off: Some(7),
            ..Told::default()
        };

        for (party, price) in [(7, 100), (1, 100), (7, 101), (7, 102), (1, 103)] {
            put(&mut b, limit(party, Sell, price, 5));
        }

        let room = StepBudget {
            fills,
            looks: fills,
        };

        let mut v = b.submit(
            order,
            0,
            &mut HouseQuote::Away,
            &mut room.clone(),
            &mut told,
        );
        while let SubmitOutcome::Pauses(order, stage) = v {
            v = b.go_on(
                order,
                stage,
                0,
                &mut HouseQuote::Away,
                &mut room.clone(),
                &mut told,
            );
        }

        b.check(0).expect("a good book");
        (
            v,
            told.ended.len(),
            told.trades,
            b.side(Sell).map(|o| o.party).collect::<Vec<_>>(),
        )
    };

    for fills in [1, 2, 100] {
        let (v, ended, trades, left) = meets(limit(2, Buy, 103, 7), fills);
        assert!(matches!(v, SubmitOutcome::Filled(_)));
        assert_eq!(
            (ended, trades, left),
            (3, vec![(1, 100, 5, 2), (1, 103, 2, 0)], vec![1])
        );

        // These orders do not count for fill or kill.
        let fok = |quantity| Order {
            life: Life::Fok,
            ..limit(2, Buy, 103, quantity)
        };

        assert!(matches!(meets(fok(10), fills).0, SubmitOutcome::Filled(_)));
        let (v, ended, ..) = meets(fok(11), fills);
        assert!(matches!(v, SubmitOutcome::Cancelled(_, Reason::FokUnfilled)) && ended == 0);
    }

    let mut told = Told {
        off: Some(7),
        ..Told::default()
    };

    let mut b = Book::default();
    [99, 100]
        .into_iter()
        .for_each(|price| drop(put(&mut b, limit(7, Sell, price, 1))));
    let post = Order {
        post_only: true,
        ..limit(2, Buy, 100, 1)
    };

    assert!(matches!(
        b.submit(
            post,
            0,
            &mut HouseQuote::Away,
            &mut StepBudget::UNBOUNDED.clone(),
            &mut told
        ),
        SubmitOutcome::Rests(_)
    ));

    let mut told = Told {
        off: Some(2),
        ..Told::default()
    };

    let mut passed = 0;
    assert!(b.cross(
        Buy,
        &Quote {
            price_e4: 90,
            left: 1
        },
        &mut passed,
        0,
        &mut StepBudget::UNBOUNDED.clone(),
        &mut &mut told
    ));

    assert_eq!((told.ended, told.trades, b.len()), (vec![2], vec![], 0));
}

#[test]
fn a_new_quote_trades_with_orders_at_their_own_prices() {
    for step in [1, 2, 100] {
        let mut b = Book::default();
        for (party, price, quantity, deadline_ms) in [
            (1, 100, 5, FOREVER),
            (2, 101, 5, FOREVER),
            (3, 101, 2, 5),
            (4, 101, 9, FOREVER),
            (5, 99, 5, FOREVER),
        ] {
            put(
                &mut b,
                Order {
                    deadline_ms,
                    ..limit(party, Buy, price, quantity)
                },
            );
        }

        let mut told = Told::default();
        let mut passed = 0;
        let mut parts = 0;
        let quote = Quote {
            price_e4: 100,
            left: 5,
        };

        let mut go_on = |b: &mut Book<u32>, passed: &mut u64| {
            let mut room = StepBudget {
                fills: step,
                looks: 0,
            };

            b.cross(Buy, &quote, passed, 10, &mut room, &mut &mut told)
        };

        while !go_on(&mut b, &mut passed) {
            parts += 1;
            b = again(&b);
        }

        assert_eq!(
            told.trades,
            [(2, 101, 5, 0), (4, 101, 5, 4), (1, 100, 5, 0)],
            "the dead do not trade, and nobody has more than one quote gives"
        );
        assert_eq!(
            b.side(Buy).map(|o| (o.party, o.leaves)).collect::<Vec<_>>(),
            [(3, 2), (4, 4), (5, 5)]
        );
        assert_eq!(
            parts,
            if step < 3 {
                3_usize.div_ceil(step) - 1
            } else {
                0
            }
        );
    }
}

#[test]
fn replacing() {
    let mut b = Book::default();
    let SubmitOutcome::Rests(a) = put(&mut b, limit(1, Sell, 100, 10)).0 else {
        panic!("rests")
    };

    put(&mut b, limit(2, Sell, 100, 10));
    put(&mut b, limit(9, Buy, 100, 4));
    assert_eq!(
        b.check_replace(a, 8, 100, 0, &HouseQuote::Away),
        Ok(ReplaceKind::InPlace)
    );
    assert_eq!(
        b.check_replace(a, 12, 100, 0, &HouseQuote::Away),
        Ok(ReplaceKind::Anew)
    );
    assert_eq!(
        b.check_replace(a, 8, 101, 0, &HouseQuote::Away),
        Ok(ReplaceKind::Anew)
    );
    assert_eq!(
        b.check_replace(a, 4, 101, 0, &HouseQuote::Away),
        Ok(ReplaceKind::Fills)
    );
    b.shrink(a, 8);
    assert_eq!(
        put(&mut b, limit(9, Buy, 100, 5)).1,
        [(1, 100, 4), (2, 100, 1)],
        "smaller keeps its place"
    );
    let SubmitOutcome::Rests(p) = put(
        &mut b,
        Order {
            post_only: true,
            ..limit(3, Buy, 90, 1)
        },
    )
    .0
    else {
        panic!("rests")
    };

    assert_eq!(
        b.check_replace(p, 1, 100, 0, &HouseQuote::Away),
        Err(Reason::PostOnlyWouldCross)
    );
    assert_eq!(
        b.check_replace(77, 1, 100, 0, &HouseQuote::Away),
        Err(Reason::TooLateToCancel)
    );
}

#[test]
fn the_dead_do_not_trade() {
    let mut b = Book::default();
    put(
        &mut b,
        Order {
            deadline_ms: 1_000,
            ..limit(1, Sell, 100, 5)
        },
    );

    put(&mut b, limit(2, Sell, 101, 5));
    assert_eq!(put_at(&mut b, limit(3, Buy, 101, 1), 999).1, [(1, 100, 1)]);
    assert_eq!(
        put_at(&mut b, limit(3, Buy, 101, 1), 1_000).1,
        [(2, 101, 1)],
        "dead from its deadline on"
    );
    let late = Order {
        deadline_ms: 1_000,
        ..limit(4, Sell, 90, 1)
    };

    assert_eq!(
        put_at(&mut b, late, 1_000).0,
        SubmitOutcome::Rejected(late, Reason::TooLateToEnter)
    );
    let mut dead = Vec::new();
    b.dead(999, 10, &mut dead);
    assert!(dead.is_empty());
    b.mark_for_removal();
    put(&mut b, limit(5, Sell, 102, 1));
    assert_eq!(
        put(&mut b, limit(3, Buy, 102, 2)).1,
        [(5, 102, 1)],
        "the doomed do not trade, the new do"
    );
    b.dead(1_000, 1, &mut dead);
    assert_eq!(
        dead.iter()
            .map(|s| b.remove(*s).expect("there").party)
            .collect::<Vec<_>>(),
        [1]
    );
    assert!(b.is_doomed());
    b.dead(1_000, 10, &mut dead);
    assert_eq!(
        dead.iter()
            .map(|s| b.remove(*s).expect("there").party)
            .collect::<Vec<_>>(),
        [2]
    );
    assert!(!b.is_doomed());
    assert_eq!(b.side(Buy).map(|o| o.party).collect::<Vec<_>>(), [3]);
}

#[test]
fn stops_fire_in_the_order_they_are_reached() {
    let mut b = Book::default();
    let stop = |party, side, stop| Order {
        stop_e4: Some(stop),
        market: true,
        ..limit(party, side, 1_000, 1)
    };

    for (party, side, at) in [
        (1, Buy, 105),
        (2, Buy, 103),
        (3, Buy, 105),
        (4, Sell, 95),
        (5, Sell, 97),
    ] {
        assert!(!b.would_fire(side, at, Some(100)));
        put(&mut b, stop(party, side, at));
    }

    b.price(102);
    assert!(!b.has_fired());
    b.price(105);
    b.price(101);
    assert!(
        b.would_fire(Buy, 104, Some(101)),
        "armed stops are not done yet"
    );
    let fired: Vec<(u32, i64)> = std::iter::from_fn(|| b.pop_triggered_stop(0))
        .map(|(o, at)| (o.party, at))
        .collect();
    assert_eq!(
        (fired, b.has_fired()),
        (vec![(2, 105), (1, 105), (3, 105)], false),
        "by the highest price since they were reached"
    );
    b.price(95);
    assert_eq!(
        std::iter::from_fn(|| b.pop_triggered_stop(0))
            .map(|(o, at)| (o.party, at))
            .collect::<Vec<_>>(),
        [(5, 95), (4, 95)]
    );
}

/// Puts the same orders to two books, to one of them in steps with a small budget. Both results are
/// equal, even if orders die between steps.
#[test]
fn what_goes_on_in_steps_comes_out_as_in_one() {
    let mut seed = 1_u64;
    let mut below = |n: u64| {
        seed = seed
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };

    let mut whole = Book::default();
    let mut parts = Book::default();
    let mut pauses = [0, 0];
    let mut now = 0;
    for n in 0..60_000_u32 {
        now += below(3) as i64;
        if below(200) == 0 {
            // A clock that was ahead is corrected, and some dead orders live again.
            now -= below(60) as i64;
        }

        let side = if below(2) == 0 { Buy } else { Sell };
        let big = below(20) == 0;
        let life = [Life::Rest, Life::Ioc, Life::Fok][if big { below(3) } else { 0 } as usize];
        let order = Order {
            life,
            deadline_ms: if below(4) == 0 {
                now + below(60) as i64
            } else {
                FOREVER
            },
            market: big && life != Life::Rest && below(2) == 0,
            post_only: !big && below(3) == 0,
            ..limit(
                n % 40,
                side,
                100 + below(20) as i64,
                1 + below(if big { 60 } else { 4 }) as i64,
            )
        };

        let house = match below(4) {
            0 => HouseQuote::Away,
            1 => HouseQuote::Outside,
            _ => HouseQuote::At(Quote {
                price_e4: 100 + below(20) as i64,
                left: if below(2) == 0 {
                    i64::MAX
                } else {
                    1 + below(20) as i64
                },
            }),
        };

        let mut due = Vec::new();
        let mut got = Vec::new();
        let told = |into: &mut Vec<_>, m: Match<'_, u32>| {
            into.push((
                m.taker.leaves,
                m.maker.map(|o| (o.party, o.leaves)),
                m.price_e4,
                m.quantity,
            ));
        };

        let mut at_whole = house;
        let mut at_parts = house;
        let verdict = whole.submit(
            order,
            now,
            &mut at_whole,
            &mut StepBudget::UNBOUNDED.clone(),
            |m: Match<'_, u32>| told(&mut due, m),
        );

        let step = StepBudget {
            fills: 1 + below(3) as usize,
            looks: 1 + below(3) as usize,
        };

        let mut outcome = parts.submit(
            order,
            now,
            &mut at_parts,
            &mut step.clone(),
            |m: Match<'_, u32>| told(&mut got, m),
        );

        while let SubmitOutcome::Pauses(order, stage) = outcome {
            pauses[usize::from(stage == Stage::Trades)] += 1;
            if below(8) == 0 {
                parts = again(&parts);
            }

            let before = got.len();
            outcome = parts.go_on(
                order,
                stage,
                now,
                &mut at_parts,
                &mut step.clone(),
                |m: Match<'_, u32>| told(&mut got, m),
            );

            assert!(
                got.len() - before <= step.fills,
                "a step does no more than it may"
            );
        }

        // Slot numbers are internal to each book.
        let same = matches!(
            (&outcome, &verdict),
            (SubmitOutcome::Rests(_), SubmitOutcome::Rests(_))
        ) || outcome == verdict;
        assert!(same, "order {n}: {outcome:?} where {verdict:?} was due");
        assert_eq!((&got, at_parts), (&due, at_whole), "order {n}");

        // Sometimes remove some dead orders, and rarely doom all orders.
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
            whole.mark_for_removal();
            parts.mark_for_removal();
        }

        if n % 16 == 0 {
            for book in [&whole, &parts] {
                // A bid that came while an ask was dead may stand above the ask after the clock
                // falls.
                assert!(
                    matches!(book.check(now), Ok(()) | Err("the book is crossed")),
                    "order {n}: {:?}",
                    book.check(now)
                );
            }

            for side in [Buy, Sell] {
                assert!(whole.side(side).eq(parts.side(side)), "order {n}");
            }
        }
    }

    assert!(pauses.into_iter().all(|n| n > 500), "{pauses:?} pauses");
}

/// Rebuilds the book as a restart does.
fn again(book: &Book<u32>) -> Book<u32> {
    let mut orders: Vec<_> = [Buy, Sell]
        .into_iter()
        .flat_map(|side| book.side(side).chain(book.stops(side)))
        .copied()
        .collect();
    orders.sort_by_key(|o| o.seq);
    let mut again = Book::new(book.head());
    for order in orders {
        again.restore(order);
    }

    again
}
