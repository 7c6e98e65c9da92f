//! Simulated prices and traders. A simulation uses a seed and integers only, so that the same seed
//! gives the same flow on every machine.

use std::collections::VecDeque;

use super::OrderSide;

/// A small random generator (xorshift64*), good enough for a simulation. The code is our own, so
/// that its numbers never change with a library.
#[derive(Clone, Debug)]
pub struct Rng(u64);

impl Rng {
    /// Mixes the seed first, so that seeds 1 and 2 give unrelated numbers.
    pub fn new(seed: u64) -> Self {
        let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Rng((z ^ (z >> 31)).max(1))
    }

    pub fn next_u64(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    /// A number below `n`; 0 if `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        u64::try_from((u128::from(self.next_u64()) * u128::from(n)) >> 64).unwrap_or(0)
    }
}

/// Random prices. Each tick moves one symbol by up to 20 basis points, within half and twice its
/// first price.
#[derive(Clone, Debug)]
pub struct PriceWalk {
    rng: Rng,
    symbols: Vec<String>,
    began_e4: Vec<i64>,
    prices_e4: Vec<i64>,
    next: usize,
}

const CENT_E4: i64 = 100;

impl PriceWalk {
    /// The first price of each symbol is between 20 and 520.
    pub fn new(seed: u64, symbols: Vec<String>) -> Self {
        let mut rng = Rng::new(seed);
        let began_e4: Vec<i64> = symbols
            .iter()
            .map(|_| (2000 + rng.below(50_000).cast_signed()) * CENT_E4)
            .collect();
        PriceWalk {
            rng,
            symbols,
            prices_e4: began_e4.clone(),
            began_e4,
            next: 0,
        }
    }

    /// The next tick. Symbols take turns. `None` only without symbols.
    pub fn tick(&mut self) -> Option<(&str, i64)> {
        let i = self.next;
        let old = *self.prices_e4.get(i)?;
        self.next = (i + 1) % self.symbols.len();
        let span = (old / 500).max(CENT_E4);
        let step = self.rng.below(span.unsigned_abs() * 2 + 1).cast_signed() - span;
        let price =
            (old + step).clamp(self.began_e4[i] / 2, self.began_e4[i] * 2) / CENT_E4 * CENT_E4;
        self.prices_e4[i] = price;
        Some((&self.symbols[i], price))
    }
}

/// An order of a simulated trader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SimulatedOrder {
    /// Unique within a run name.
    pub order_id: String,
    pub user_id: String,
    pub symbol: String,
    /// 1 to 100.
    pub quantity: u64,
    /// Buys, sells of earlier purchases, and a few sells without a purchase.
    pub side: OrderSide,
}

/// Traders who send market orders. Now and then an order is sent twice, as real clients do after a
/// timeout.
#[derive(Clone, Debug)]
pub struct Traders {
    rng: Rng,
    run: String,
    users: u32,
    symbols: Vec<String>,
    sent: u64,
    last: Option<SimulatedOrder>,
    /// Purchases that are not sold yet, oldest first: user, index of the symbol, quantity.
    bought: VecDeque<(u64, usize, u64)>,
    unsettled: usize,
}

/// Maximum number of purchases to sell from. Older purchases are never sold.
const BOUGHT_MAX: usize = 50_000;
/// Number of latest purchases that are not sold. These purchases may not be settled yet.
const UNSETTLED: usize = 1_000;

impl Traders {
    /// `run` is the prefix of every order id. Each run on the same log needs another prefix, or all
    /// its orders are duplicates.
    pub fn new(seed: u64, run: &str, users: u32, symbols: Vec<String>) -> Self {
        Traders {
            rng: Rng::new(seed ^ 0x7472_6164_6572_7321),
            run: run.into(),
            users: users.max(1),
            symbols,
            sent: 0,
            last: None,
            bought: VecDeque::new(),
            unsettled: UNSETTLED,
        }
    }

    /// Keeps the latest `purchases` unsold: as many as can be in flight at once.
    pub fn sell_after(mut self, purchases: usize) -> Self {
        self.unsettled = purchases.min(BOUGHT_MAX - 1);
        self
    }

    fn user(&mut self) -> u64 {
        self.rng.below(u64::from(self.users)) + 1
    }

    fn place(&mut self) -> usize {
        usize::try_from(self.rng.below(self.symbols.len() as u64)).unwrap_or(0)
    }

    /// Sells all or a part of the oldest purchase.
    fn sale(&mut self) -> Option<(OrderSide, u64, usize, u64)> {
        let (user, place, held) = self.bought.pop_front()?;
        let quantity = self.rng.below(held) + 1;
        Some((OrderSide::Sell, user, place, quantity))
    }

    /// The next order. `None` only without symbols.
    pub fn order(&mut self) -> Option<SimulatedOrder> {
        if self.rng.below(200) == 0
            && let Some(last) = &self.last
        {
            return Some(last.clone());
        }

        if self.symbols.is_empty() {
            return None;
        }

        let (side, user, place, quantity) = match self.rng.below(200) {
            0 => (
                OrderSide::Sell,
                self.user(),
                self.place(),
                self.rng.below(100) + 1,
            ),
            1..100 if self.bought.len() > self.unsettled => self.sale()?,
            _ => {
                let user = self.user();
                let place = self.place();
                let quantity = self.rng.below(100) + 1;
                self.bought.push_back((user, place, quantity));
                if self.bought.len() > BOUGHT_MAX {
                    self.bought.pop_front();
                }

                (OrderSide::Buy, user, place, quantity)
            }
        };

        self.sent += 1;
        let order = SimulatedOrder {
            order_id: format!("{}-{}", self.run, self.sent),
            user_id: format!("trader-{user}"),
            symbol: self.symbols.get(place)?.clone(),
            quantity,
            side,
        };

        self.last = Some(order.clone());
        Some(order)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_gives_the_same_flow() {
        let symbols = || vec!["AAPL".to_string(), "MSFT".to_string()];
        let flow = |seed| {
            let mut prices = PriceWalk::new(seed, symbols());
            let mut traders = Traders::new(seed, "r", 10, symbols());
            let ticks: Vec<_> = (0..2000)
                .map(|_| prices.tick().map(|(s, p)| (s.to_string(), p)))
                .collect();
            (
                ticks,
                (0..2000).map(|_| traders.order()).collect::<Vec<_>>(),
            )
        };

        assert_eq!(flow(7), flow(7));
        assert_ne!(flow(7), flow(8));
        let (ticks, orders) = flow(7);
        assert!(
            ticks
                .iter()
                .flatten()
                .all(|(_, p)| (100_000..20_000_000).contains(p) && p % CENT_E4 == 0)
        );
        assert!(
            orders.windows(2).any(|w| w[0] == w[1]),
            "some orders are sent twice"
        );
        assert!(
            orders
                .iter()
                .flatten()
                .all(|o| (1..=100).contains(&o.quantity))
        );
    }
}
