//! The matching core, under the mix of a published test of another core. Of 100 commands, 9 are
//! immediate-or-cancel, 3 market-like, 6 replacements; the rest are cancels and adds. The size of
//! the book stays about the same.

use std::hint::black_box;

use domain::book::{
    Book, FOREVER, HouseQuote, Life, Match, Order, Party, ReplaceKind, StepBudget, SubmitOutcome,
};
use domain::status::Side;
use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

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
pub enum Command {
    Add(Side, i64, i64, Life, bool),
    Cancel(u64),
    Replace(u64, i64),
}

/// A small random number generator with a fixed seed, so that every run is equal.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % sides
    }
}

/// A book with the owner's index from order ids to slots.
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

    /// The next command; depends on the content of the book.
    pub fn choose(&mut self) -> Command {
        let d = &mut self.dice;
        let side = if d.roll(2) == 0 {
            Side::Buy
        } else {
            Side::Sell
        };

        // Prices are around 1000000, and are denser near the middle.
        let away = (d.roll(60) * d.roll(60) / 20) as i64 * 100;
        let passive = if side == Side::Buy {
            1_000_000 - 100 - away
        } else {
            1_000_000 + 100 + away
        };

        let quantity = 1 + d.roll(100) as i64;
        let kind = d.roll(100);
        let known = |d: &mut Dice, slots: &IndexMap<u64, u32, FxBuildHasher>| {
            slots
                .get_index(d.roll(slots.len().max(1) as u64) as usize)
                .map(|(id, _)| *id)
        };

        match kind {
            0..9 => Command::Add(
                side,
                if side == Side::Buy {
                    1_001_000
                } else {
                    999_000
                },
                quantity,
                Life::Ioc,
                false,
            ),
            9..12 => Command::Add(
                side,
                if side == Side::Buy { 2_000_000 } else { 1 },
                quantity,
                Life::Ioc,
                true,
            ),
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

    /// Runs the next command of the mix. The measurement includes the choice of the command.
    pub fn step(&mut self) {
        let command = self.choose();
        self.run(command);
    }

    /// Runs a command.
    pub fn run(&mut self, command: Command) {
        let book = &mut self.book;
        let slots = &mut self.slots;
        match command {
            Command::Cancel(id) => {
                self.counts[4] += 1;
                if let Some(slot) = slots.swap_remove(&id) {
                    black_box(book.remove(slot));
                }
            }
            Command::Replace(id, price) => {
                self.counts[2] += 1;
                let Some(slot) = slots.get(&id).copied() else {
                    return;
                };

                let Some(order) = book.get(slot).copied() else {
                    return;
                };

                // A replacement keeps the side: move the price to the order's side of the middle.
                let limit_e4 = match order.side {
                    Side::Buy => price.min(999_900),
                    Side::Sell => price.max(1_000_100),
                };

                match book.check_replace(slot, order.quantity(), limit_e4, 0, &HouseQuote::Away) {
                    Ok(ReplaceKind::Anew) => {
                        let Some(order) = book.remove(slot) else {
                            return;
                        };

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
                let party = Id {
                    order: self.next,
                    user: (self.next % 1_000) as u32,
                };

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
        let slots = &mut self.slots;
        let traded = &mut self.traded;
        let id = order.party.order;
        let verdict = self.book.submit(
            order,
            0,
            &mut HouseQuote::Away,
            &mut StepBudget::UNBOUNDED.clone(),
            |m: Match<'_, Id>| {
                *traded += m.quantity as u64;
                if let Some(maker) = m.maker.filter(|maker| maker.leaves == 0) {
                    slots.swap_remove(&maker.party.order);
                }
            },
        );

        if let SubmitOutcome::Rests(slot) = verdict {
            slots.insert(id, slot);
        }
    }
}
