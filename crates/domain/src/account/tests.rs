//! Tests of accounts: each posting, and conservation of cash and shares.

use proptest::prelude::*;

use super::super::hold::Terms;
use super::*;

#[derive(Default)]
struct World {
    account: Account,
    ledger: Ledger,
}

impl World {
    /// Reserves for an order and fills it in parts at these prices; releases the rest.
    fn trade(&mut self, terms: &Terms, fills: &[(i64, i64)], with_house: bool) {
        let mut hold = terms
            .need(0, 0, self.ledger.position.sellable())
            .expect("in bounds");
        self.account
            .reserve(&mut self.ledger.position, &hold)
            .expect("reserve");
        let mut cum = 0;
        let mut value = 0;
        for (quantity, price) in fills {
            let freed = terms
                .freed(&hold, cum, value, *quantity, quantity * price)
                .expect("in bounds");
            let fee = terms.fee(value, quantity * price).expect("in bounds");
            let trade = TradeLeg {
                side: terms.side,
                quantity: *quantity,
                value_e4: quantity * price,
                fee,
                with_house,
                keeps: false,
            };

            self.account
                .settle(&mut self.ledger, &trade, &freed)
                .expect("settle");
            hold = hold.checked_sub(&freed).expect("no more than was held");
            (cum, value) = (cum + quantity, value + quantity * price);
        }

        if cum == terms.quantity {
            assert_eq!(hold, Hold::default(), "a filled order holds nothing");
        }

        self.account
            .release(&mut self.ledger.position, &hold)
            .expect("release");
    }
}

fn terms(side: Side, quantity: i64, limit_e4: i64) -> Terms {
    Terms {
        side,
        quantity,
        limit_e4,
        ceiling_e4: 2 * limit_e4,
        fee_bps: 0,
        short_unit_e4: 0,
    }
}

#[test]
fn a_round_trip() {
    let mut w = World::default();
    w.account
        .deposit(&mut w.ledger.totals, 1_000)
        .expect("room");
    w.trade(&terms(Side::Buy, 5, 120), &[(5, 100)], true);
    assert_eq!(
        (
            w.account.available_e4,
            w.account.reserved_e4,
            w.ledger.position.long
        ),
        (500, 0, 5)
    );

    w.trade(&terms(Side::Sell, 5, 80), &[(2, 90), (3, 90)], true);
    assert_eq!(
        (
            w.account.available_e4,
            w.account.turnover_e4,
            w.ledger.house.cash_e4
        ),
        (950, 950, 50)
    );

    assert_eq!(
        (w.account.incoming_e4, w.ledger.position),
        (0, Position::default())
    );
}

#[test]
fn a_trade_that_is_taken_back_was_not() {
    for side in [Side::Buy, Side::Sell] {
        let mut w = World::default();
        w.account
            .deposit(&mut w.ledger.totals, 10_000)
            .expect("room");
        w.trade(&terms(Side::Buy, 5, 100), &[(5, 100)], false);
        let account = w.account;
        let position = w.ledger.position;
        w.trade(
            &Terms {
                fee_bps: 13,
                ..terms(side, 5, 100)
            },
            &[(5, 100)],
            false,
        );

        let trade = TradeLeg {
            side,
            quantity: 5,
            value_e4: 500,
            fee: Fee {
                charged_e4: 1,
                exact_e4: 0,
            },
            with_house: false,
            keeps: false,
        };

        assert_eq!(w.account.still_has(&w.ledger.position, &trade), Ok(()));
        w.account
            .bust_trade(&mut w.ledger, &trade)
            .expect("it is there");

        let turnover_e4 = w.account.turnover_e4;
        assert_eq!(
            (w.account, w.ledger.position),
            (
                Account {
                    turnover_e4,
                    ..account
                },
                position
            )
        );

        assert_eq!(
            (w.ledger.totals.fees_e4, w.ledger.totals.rounding_e4),
            (0, 0)
        );

        // The house takes the place of the counterparty, and keeps the position.
        let way = if side == Side::Buy { 1 } else { -1 };
        assert_eq!(
            (w.ledger.house.quantity, w.ledger.house.cash_e4),
            (5 * way, -500 * way)
        );
    }

    let w = World::default();
    let trade = |side| TradeLeg {
        side,
        quantity: 5,
        value_e4: 500,
        fee: Fee::default(),
        with_house: true,
        keeps: false,
    };

    assert_eq!(
        w.account.still_has(&w.ledger.position, &trade(Side::Buy)),
        Err(Reason::ShortSellNotPermitted)
    );
    assert_eq!(
        w.account.still_has(&w.ledger.position, &trade(Side::Sell)),
        Err(Reason::InsufficientFunds)
    );

    // A short sale frees its collateral.
    let sold = Account {
        reserved_e4: 525,
        ..Default::default()
    };

    assert_eq!(
        sold.still_has(
            &Position {
                short: 5,
                collateral_e4: 525,
                ..Default::default()
            },
            &trade(Side::Sell)
        ),
        Ok(())
    );

    let rich = Account {
        available_e4: PUBLIC_MAX,
        ..Default::default()
    };

    assert_eq!(
        rich.still_has(
            &Position {
                long: 5,
                ..Default::default()
            },
            &trade(Side::Buy)
        ),
        Err(Reason::NotionalLimit)
    );
}

#[test]
fn what_is_not_there_any_more_is_owed() {
    let mut w = World::default();
    w.account
        .deposit(&mut w.ledger.totals, 1_000)
        .expect("room");
    w.trade(&terms(Side::Buy, 5, 100), &[(5, 100)], false);
    w.trade(&terms(Side::Sell, 5, 100), &[(5, 150)], false);
    w.account
        .withdraw(&mut w.ledger.totals, 1_200)
        .expect("there");
    let trade = |side, value_e4| TradeLeg {
        side,
        quantity: 5,
        value_e4,
        fee: Fee::default(),
        with_house: true,
        keeps: false,
    };

    let back = |w: &mut World, trade: &TradeLeg| {
        assert!(w.account.can_take_back(&w.ledger.position, trade));
        w.account.bust_trade(&mut w.ledger, trade).expect("it can");
    };

    back(&mut w, &trade(Side::Sell, 750));
    assert_eq!(
        (
            w.account.balance_e4(),
            w.account.owed_e4,
            w.ledger.position.long
        ),
        (-700, 700, 5)
    );
    assert_eq!(may_withdraw(&w.account, 1), Err(Reason::DebitBalance));

    // A sale pays the debt, and so does a deposit.
    w.trade(&terms(Side::Sell, 2, 100), &[(2, 100)], false);
    assert_eq!(w.account.balance_e4(), -500);
    w.account.deposit(&mut w.ledger.totals, 600).expect("room");
    assert_eq!((w.account.available_e4, w.account.owed_e4), (100, 0));

    // Two of these shares have been sold since. Their purchase price is held until they are bought
    // back.
    back(&mut w, &trade(Side::Buy, 500));
    assert_eq!(
        (
            w.ledger.position.long,
            w.ledger.position.short,
            w.ledger.position.collateral_e4
        ),
        (0, 2, 200)
    );
    assert_eq!((w.account.available_e4, w.account.reserved_e4), (400, 200));
    w.trade(&terms(Side::Buy, 2, 100), &[(2, 100)], false);
    assert_eq!(
        (w.ledger.position, w.account.balance_e4()),
        (Position::default(), 400)
    );
}

#[test]
fn a_short_sale_holds_cash_until_it_is_covered() {
    let mut w = World::default();
    w.account
        .deposit(&mut w.ledger.totals, 10_000)
        .expect("room");
    w.trade(&terms(Side::Buy, 3, 100), &[(3, 100)], false);
    w.trade(
        &Terms {
            short_unit_e4: 105,
            ..terms(Side::Sell, 10, 95)
        },
        &[(1, 100), (8, 100), (1, 100)],
        false,
    );

    assert_eq!(
        (
            w.ledger.position.net(),
            w.ledger.position.short,
            w.ledger.position.collateral_e4
        ),
        (-7, 7, 735)
    );
    assert_eq!(
        (w.account.available_e4, w.account.reserved_e4),
        (10_700 - 735, 735)
    );
    w.trade(&terms(Side::Buy, 5, 100), &[(5, 90)], false);
    assert_eq!(
        (w.ledger.position.net(), w.ledger.position.collateral_e4),
        (-2, 210)
    );
    w.trade(&terms(Side::Buy, 5, 100), &[(5, 90)], false);
    assert_eq!(
        (w.ledger.position, w.account.reserved_e4),
        (
            Position {
                long: 3,
                ..Default::default()
            },
            0
        )
    );

    assert_eq!(w.ledger.house.clearing_quantity, -3);
}

#[test]
fn shares_that_are_given_back_cover_what_is_owed() {
    let mut w = World::default();
    w.account
        .deposit(&mut w.ledger.totals, 10_000)
        .expect("room");
    w.trade(&terms(Side::Buy, 10, 100), &[(10, 100)], false);
    let all = terms(Side::Sell, 10, 104)
        .need(0, 0, 10)
        .expect("in bounds");
    w.account
        .reserve(&mut w.ledger.position, &all)
        .expect("shares");
    w.trade(
        &Terms {
            short_unit_e4: 105,
            ..terms(Side::Sell, 5, 95)
        },
        &[(5, 100)],
        false,
    );

    assert_eq!((w.ledger.position.short, w.account.reserved_e4), (5, 525));
    w.account
        .release(&mut w.ledger.position, &all)
        .expect("what was held");
    assert_eq!(
        (w.ledger.position, w.account.reserved_e4),
        (
            Position {
                long: 5,
                ..Default::default()
            },
            0
        )
    );
}

#[test]
fn what_must_not_happen_is_an_error() {
    let cash = |cash_e4| Hold {
        cash_e4,
        ..Hold::default()
    };

    let mut p = Position::default();
    let mut a = Account {
        available_e4: 10,
        ..Default::default()
    };

    assert!(a.reserve(&mut p, &cash(11)).is_err());
    assert!(Account::default().release(&mut p, &cash(1)).is_err());
    let mut full = Position {
        long: 1,
        reserved: 1,
        ..Default::default()
    };

    assert!(
        Account::default()
            .reserve(
                &mut full,
                &Hold {
                    shares: 1,
                    incoming_e4: 1,
                    ..Hold::default()
                }
            )
            .is_err()
    );

    let mut totals = CashTotals {
        users_e4: 1,
        ..Default::default()
    };

    assert!(
        a.deposit(&mut totals, 5).is_err(),
        "totals that were wrong before are found"
    );
}

#[test]
fn bounds() {
    let a = Account {
        available_e4: PUBLIC_MAX - 10,
        incoming_e4: 5,
        ..Default::default()
    };

    let buy = |cash_e4| Hold {
        cash_e4,
        ..Hold::default()
    };

    let sell = |incoming_e4| Hold {
        incoming_e4,
        ..Hold::default()
    };

    assert!(a.can_deposit(5) && !a.can_deposit(6));
    assert!(a.within_bounds(&sell(5)) && !a.within_bounds(&sell(6)) && a.within_bounds(&buy(6)));
    assert!(
        !Account {
            turnover_e4: PUBLIC_MAX,
            ..a
        }
        .within_bounds(&buy(1))
    );
}

proptest! {
    /// P6, I1, I2: after any postings in any order, all sums are zero and no balance is negative.
    #[test]
    fn conservation(steps in prop::collection::vec((0_u8..8, 1_i64..1_000, 1_i64..10_000, 0_i64..300), 1..200)) {
        let mut w = World::default();
        for (what, quantity, price, fee_bps) in steps {
            let value = quantity * price;
            let t = |side| Terms { fee_bps, short_unit_e4: 2 * price, ..terms(side, quantity, price) };
            let part = 1 + quantity / 3;
            match what {
                0 | 1 if w.account.can_deposit(value) => w.account.deposit(&mut w.ledger.totals, value).expect("deposit"),
                2 if may_withdraw(&w.account, value).is_ok() => w.account.withdraw(&mut w.ledger.totals, value).expect("withdraw"),
                3 | 4 if 2 * value <= w.account.available_e4 => w.trade(&t(Side::Buy), &[(part, price), (quantity - part, (price + 1) / 2)], what == 3),
                5 | 6 if quantity <= w.ledger.position.sellable() || 2 * value <= w.account.available_e4 => {
                    w.trade(&t(Side::Sell), &[(part, price), (quantity - part, price + price / 2)], what == 5);
                }
                7 => {
                    let side = if fee_bps % 2 == 0 { Side::Buy } else { Side::Sell };
                    let trade = TradeLeg { side, quantity: part, value_e4: part * price, fee: Fee { charged_e4: 2, exact_e4: 1 }, with_house: false, keeps: false };
                    if w.account.can_take_back(&w.ledger.position, &trade) {
                        let still = w.account.still_has(&w.ledger.position, &trade);
                        let owed = w.account.owed_e4;
                        let short = w.ledger.position.short;
                        w.account.bust_trade(&mut w.ledger, &trade).expect("it can");
                        let more = (w.account.owed_e4 > owed, w.ledger.position.short > short);
                        let lacks = (still == Err(Reason::InsufficientFunds), still == Err(Reason::ShortSellNotPermitted));
                        prop_assert!(owed > 0 || more == lacks);
                    }
                }
                _ => {}
            }

            prop_assert!(w.account.available_e4 >= 0 && w.account.owed_e4 >= 0 && w.account.available_e4.min(w.account.owed_e4) == 0);
            prop_assert!(w.account.reserved_e4 == w.ledger.position.collateral_e4 && w.account.incoming_e4 == 0);
            let fees = w.ledger.totals.fees_e4 + w.ledger.totals.rounding_e4;
            let cash = w.account.cash() + w.ledger.house.cash_e4 + w.ledger.house.clearing_e4 + w.ledger.totals.external_e4 + fees;
            prop_assert_eq!(cash, 0);
            prop_assert_eq!(i128::from(w.ledger.position.net()) + w.ledger.house.quantity + w.ledger.house.clearing_quantity, 0);
        }
    }
}
