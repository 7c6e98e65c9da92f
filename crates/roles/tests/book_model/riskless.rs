//! A search for profit without risk. An agent with two accounts may rest orders in a quoted market.
//! The others trade by market, stop and limit orders. While the house quotes, no trade may be
//! better than the last tick by more than the half spread. Neither the house nor the others' orders
//! thus give the agent more than the quoted spread.
//!
//! `cargo test -p processor-roles --test book_model riskless` makes 20 000 tries;
//! `RISKLESS_TRIES=1000000 RISKLESS_SEED=7` is a campaign. With the old rules, the same search
//! finds the hole that these rules had.

use std::collections::BTreeMap;

use roles::RoleSettings;
use testing::model::roles::{Pair, settings};
use testing::model::script::{Command, Dice, Kind, START_MS, Tif};

/// Two accounts of the agent, and the others.
const AGENT: [&str; 2] = ["agent1", "agent2"];
const OTHERS: [&str; 4] = ["v1", "v2", "v3", "v4"];
/// `A` is quoted without a spread, `C` with a half spread of five basis points.
const QUOTED: [(&str, i64); 2] = [("A", 0), ("C", 5)];

struct Search {
    dice: Dice,
    pair: Pair,
    now: i64,
    stale_ms: i64,
    /// Price and time of the last tick.
    ticks: BTreeMap<&'static str, (i64, i64)>,
    /// Symbol and side of each order.
    orders: BTreeMap<(String, String), (&'static str, bool)>,
    /// Number of events already checked, by user.
    looked: BTreeMap<String, usize>,
    next: u64,
    fills: usize,
    of_house: usize,
}

impl Search {
    fn new(seed: u64, settings: RoleSettings) -> Search {
        let mut s = Search {
            dice: Dice::new(seed),
            stale_ms: settings.stale_ms as i64,
            pair: Pair::by(settings, false),
            now: START_MS,
            ticks: BTreeMap::new(),
            orders: BTreeMap::new(),
            looked: BTreeMap::new(),
            next: 0,
            fills: 0,
            of_house: 0,
        };

        for (symbol, _) in QUOTED {
            s.tick(symbol, 1_000_000).expect("nobody is there yet");
            for user in AGENT.into_iter().chain(OTHERS) {
                s.order(user, symbol, true, 50, None, None, Tif::Ioc, false)
                    .expect("a stock of shares");
            }
        }

        s
    }

    fn run(&mut self, c: &Command) -> Result<(), String> {
        self.pair.run(c, false)?;
        self.look().map_err(|e| format!("{c:?}: {e}"))
    }

    fn tick(&mut self, symbol: &'static str, price: i64) -> Result<(), String> {
        self.ticks.insert(symbol, (price, self.now));
        self.run(&Command::Tick {
            symbol: symbol.into(),
            price,
        })
    }

    #[expect(clippy::too_many_arguments, reason = "the fields of an order")]
    fn order(
        &mut self,
        user: &str,
        symbol: &'static str,
        buy: bool,
        quantity: i64,
        limit: Option<i64>,
        stop: Option<i64>,
        tif: Tif,
        post_only: bool,
    ) -> Result<(), String> {
        self.next += 1;
        let id = format!("o{}", self.next);
        self.orders.insert((user.into(), id.clone()), (symbol, buy));
        let kind = Kind::New {
            symbol: symbol.into(),
            buy,
            quantity,
            limit,
            stop,
            tif,
            expire_at: None,
            post_only,
        };

        self.run(&Command::Order {
            user: user.into(),
            id,
            kind,
        })
    }

    /// Checks all new fills: the owner's gain against the last tick must be within the bound.
    fn look(&mut self) -> Result<(), String> {
        for (user, events) in &self.pair.told {
            let from = self.looked.insert(user.clone(), events.len()).unwrap_or(0);
            for e in &events[from..] {
                let Some((quantity, price, _, liquidity)) = e.last else {
                    continue;
                };

                let Some((symbol, buy)) = self.orders.get(&(user.clone(), e.order_id.clone()))
                else {
                    continue;
                };

                let (tick, time) = self.ticks[symbol];
                let quoted = self.now - time <= self.stale_ms;
                self.fills += 1;
                self.of_house += usize::from(liquidity == "house");
                if !quoted {
                    if liquidity == "house" {
                        return Err(format!(
                            "the house traded by a price that is too old: {e:?}"
                        ));
                    }

                    continue;
                }

                let bps = QUOTED.iter().find(|(s, _)| s == symbol).expect("quoted").1;
                let better = if *buy { tick - price } else { price - tick };
                let most = if liquidity == "house" {
                    0
                } else {
                    (tick * bps + 9_999) / 10_000
                };

                if better > most {
                    return Err(format!(
                        "{user} gained {} on {quantity} {symbol}, where {} is quoted: {e:?}",
                        better * quantity,
                        most * quantity
                    ));
                }
            }
        }

        Ok(())
    }

    fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.dice.roll(all.len() as u64) as usize]
    }

    /// A price near the last tick, at the quote, or at the edge of the accepted range.
    fn price(&mut self, symbol: &'static str) -> i64 {
        let tick = self.ticks[symbol].0;
        let away = match self.dice.roll(4) {
            0 => tick / 10_000 * self.dice.roll(12) as i64,
            1 => tick * 5 / 100 - 100 * self.dice.roll(3) as i64,
            _ => tick / 1_000 * self.dice.roll(20) as i64,
        };

        (if self.dice.roll(2) == 0 {
            tick + away
        } else {
            tick - away
        }) / 100
            * 100
    }

    fn step(&mut self) -> Result<(), String> {
        let symbol = self.pick(&QUOTED).0;
        let buy = self.dice.roll(2) == 0;
        let quantity = 1 + self.dice.roll(20) as i64;
        let tif = self.pick(&[Tif::Gtc, Tif::Gtc, Tif::Gtc, Tif::Ioc, Tif::Fok]);
        match self.dice.roll(100) {
            0..12 => {
                let tick = self.ticks[symbol].0;

                // Mostly small steps, and now and then a gap. The clamp keeps the price near its
                // start.
                let price = match self.dice.roll(12) {
                    0 => 920_000 + 20_000 * self.dice.roll(9) as i64,
                    _ => (tick + 1_000 * (self.dice.roll(11) as i64 - 5)).clamp(900_000, 1_100_000),
                };

                self.tick(symbol, price)
            }
            12..14 => {
                let ms = self.pick(&[1, 500, 2_000, 130_000]);
                self.now += ms;
                self.run(&Command::Wait(ms))
            }
            // The others: market orders, stops, and now and then a limit order.
            14..40 => {
                let user = self.pick(&OTHERS);
                let (limit, stop) = match self.dice.roll(6) {
                    0 => (None, Some(self.price(symbol))),
                    1 => (Some(self.price(symbol)), None),
                    _ => (None, None),
                };

                let tif = if limit.is_none() && stop.is_none() {
                    self.pick(&[Tif::Ioc, Tif::Fok])
                } else {
                    tif
                };

                self.order(user, symbol, buy, quantity, limit, stop, tif, false)
            }
            40..52 => {
                let user = self.pick(&AGENT);
                let mine: Vec<String> = self
                    .orders
                    .keys()
                    .filter(|(u, _)| u == user)
                    .map(|(_, id)| id.clone())
                    .collect();
                let orig = mine
                    [mine.len() - 1 - self.dice.roll(mine.len().min(12) as u64) as usize]
                    .clone();
                self.next += 1;
                let kind = match self.dice.roll(3) {
                    0 => Kind::Replace {
                        orig,
                        quantity: Some(quantity),
                        limit: Some(self.price(symbol)),
                    },
                    _ => Kind::Cancel {
                        orig,
                        operator: false,
                    },
                };

                self.run(&Command::Order {
                    user: user.into(),
                    id: format!("c{}", self.next),
                    kind,
                })
            }
            n => {
                let user = self.pick(&AGENT);
                let limit = (n < 90).then(|| self.price(symbol));
                let stop = (self.dice.roll(8) == 0).then(|| self.price(symbol));
                let tif = if limit.is_none() && stop.is_none() {
                    Tif::Ioc
                } else {
                    tif
                };

                let post_only =
                    limit.is_some() && stop.is_none() && tif == Tif::Gtc && self.dice.roll(4) == 0;
                self.order(user, symbol, buy, quantity, limit, stop, tif, post_only)
            }
        }
    }
}

fn number(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |n| {
        n.parse().unwrap_or_else(|_| panic!("{name} is a number"))
    })
}

#[test]
fn nobody_gains_more_than_the_spread_that_is_quoted() {
    const LENGTH: u64 = 500;
    let tries = number("RISKLESS_TRIES", 20_000);
    let first = number("RISKLESS_SEED", 1);
    let mut fills = 0;
    let mut of_house = 0;
    for seed in first..first + tries.div_ceil(LENGTH) {
        let mut s = Search::new(
            seed,
            RoleSettings {
                match_part: 1_000,
                opening_cash_e4: 10_000_000_000,
                ..settings()
            },
        );

        for n in 0..LENGTH {
            s.step()
                .unwrap_or_else(|e| panic!("seed {seed}, step {n}: {e}"));
        }

        s.pair
            .check()
            .and_then(|_| s.pair.check_rest())
            .unwrap_or_else(|e| panic!("seed {seed}: {e}"));
        (fills, of_house) = (fills + s.fills, of_house + s.of_house);
    }

    println!(
        "{tries} tries, {fills} fills, {of_house} of them with the house: none better than the quote"
    );
    assert!(
        fills as u64 > tries / 10 && of_house > 0 && fills > of_house,
        "hardly anything happened: {fills} fills, {of_house} with the house"
    );
}

/// The search can find a hole: with the old rules, an offer at the edge of the collar is a gain
/// without risk.
#[test]
fn by_the_rules_of_before_it_finds_the_hole() {
    let found = (1..20).find_map(|seed| {
        let mut s = Search::new(
            seed,
            RoleSettings {
                rules: 0,
                match_part: 1_000,
                opening_cash_e4: 10_000_000_000,
                ..settings()
            },
        );

        (0..500).find_map(|_| s.step().err())
    });

    assert!(found.is_some_and(|e| e.contains("gained")));
}
