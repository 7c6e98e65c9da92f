//! Compares busted trades with their fills in `order-events` and with the busts in `trades`. Busts
//! are rare, so all of them are held in memory.

use std::collections::BTreeMap;

use wire::event::{Event, OrderEvent};
use wire::trade::TradeBusted;

/// User, order and trade.
type Key = [String; 3];

/// Sum of the busts of one trade of an order.
#[derive(Default)]
struct Back {
    quantity: i64,
    fee_e4: i64,
    /// Price of the last bust.
    price_e4: Option<i64>,
    /// An earlier bust had another price.
    other_price: bool,
    /// Busted quantity by `trades`. None: older versions wrote no busts to `trades`.
    told: Option<i64>,
    /// The fill was found and agrees with the busts.
    is_like_its_fill: bool,
}

/// Collects busts from both topics. Call [`Busts::event`], [`Busts::fill`], [`Busts::told`] and
/// [`Busts::check`], in this order.
#[derive(Default)]
pub(super) struct Busts {
    all: BTreeMap<Key, Back>,
    /// The first bust in `trades` without an event.
    untold: Option<Key>,
}

fn key(e: &OrderEvent<'_>) -> Key {
    [Some(e.user_id), e.order_id, e.trade_id].map(|id| id.unwrap_or_default().to_string())
}

impl Busts {
    pub(super) fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Pass 1: every event.
    pub(super) fn event(&mut self, e: &OrderEvent<'_>) {
        if e.event != Event::TradeBusted {
            return;
        }

        let back = self.all.entry(key(e)).or_default();
        back.other_price |= back
            .price_e4
            .is_some_and(|price| Some(price) != e.last_price_e4);
        back.price_e4 = e.last_price_e4;
        back.quantity += e.last_quantity.unwrap_or(0);
        back.fee_e4 -= e.fee_e4.unwrap_or(0);
    }

    /// Pass 2, if pass 1 found a bust: every event again, for the fills. A fill is older than its
    /// bust.
    pub(super) fn fill(&mut self, e: &OrderEvent<'_>) {
        if !matches!(e.event, Event::OrderFilled | Event::OrderPartiallyFilled) {
            return;
        }

        if let Some(back) = self.all.get_mut(&key(e)) {
            let price = !back.other_price && back.price_e4 == e.last_price_e4;
            back.is_like_its_fill = price
                && Some(back.quantity) <= e.last_quantity
                && back.fee_e4 <= e.fee_e4.unwrap_or(0);
        }
    }

    /// Pass 3: all of `trades`. The house has no order.
    pub(super) fn told(&mut self, b: &TradeBusted<'_>) {
        for (user, order) in [(b.buyer, b.buy_order_id), (b.seller, b.sell_order_id)] {
            let (Some(user), Some(order)) = (user, order) else {
                continue;
            };

            let key = [user, order, b.trade_id].map(str::to_string);
            match self.all.get_mut(&key) {
                Some(back) => *back.told.get_or_insert(0) += b.busted_quantity,
                None => {
                    self.untold.get_or_insert(key);
                }
            }
        }
    }

    /// The first disagreement.
    pub(super) fn check(&self) -> Result<(), String> {
        if let Some(([user, order, trade], _)) =
            self.all.iter().find(|(_, back)| !back.is_like_its_fill)
        {
            return Err(format!(
                "user {user} got trade {trade} of order {order} back, and no fill is like it"
            ));
        }

        if let Some([user, order, trade]) = &self.untold {
            return Err(format!(
                "`trades` says that user {user} got trade {trade} of order {order} back, and no event does (equal at rest)"
            ));
        }

        match self
            .all
            .iter()
            .find(|(_, back)| back.told.is_some_and(|told| told != back.quantity))
        {
            Some(([user, order, trade], back)) => Err(format!(
                "user {user} got {} of trade {trade} of order {order} back, {} by `trades` (equal at rest)",
                back.quantity,
                back.told.unwrap_or(0)
            )),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(event: Event, quantity: i64, price: i64, fee: i64) -> OrderEvent<'static> {
        OrderEvent {
            order_id: Some("1"),
            trade_id: Some("0-1"),
            last_quantity: Some(quantity),
            last_price_e4: Some(price),
            fee_e4: Some(fee),
            ..OrderEvent::new(event, "u")
        }
    }

    fn check(busts: &[OrderEvent<'_>], told: &[i64]) -> Result<(), String> {
        let mut b = Busts::default();
        busts.iter().for_each(|e| b.event(e));
        b.fill(&of(Event::OrderFilled, 10, 100, 7));
        for busted_quantity in told {
            let trade_id = "0-1";
            let symbol = "A";
            let price_e4 = 100;
            let buyer = Some("u");
            let seller = Some("house:A");
            let buy_order_id = Some("1");
            let sell_order_id = None;
            let busted_quantity = *busted_quantity;
            let time_us = 0;
            b.told(&TradeBusted {
                trade_id,
                symbol,
                price_e4,
                busted_quantity,
                buyer,
                seller,
                buy_order_id,
                sell_order_id,
                time_us,
            });
        }

        b.check()
    }

    #[test]
    fn what_was_taken_back_is_like_its_fill() {
        let bust = |quantity, price, fee: i64| of(Event::TradeBusted, quantity, price, -fee);
        assert_eq!(check(&[bust(4, 100, 2), bust(6, 100, 5)], &[4, 6]), Ok(()));
        assert_eq!(
            check(&[bust(4, 100, 0)], &[]),
            Ok(()),
            "before `trades` told of it"
        );
        let wrong: [(&[OrderEvent<'_>], &[i64], &str); 7] = [
            (&[bust(4, 100, 8)], &[4], "no fill is like it"),
            (
                &[bust(4, 100, 4), bust(6, 100, 4)],
                &[4, 6],
                "no fill is like it",
            ),
            (
                &[bust(4, 101, 0), bust(6, 100, 0)],
                &[4, 6],
                "no fill is like it",
            ),
            (
                &[bust(4, 101, 0), bust(3, 100, 0), bust(3, 100, 0)],
                &[4, 3, 3],
                "no fill is like it",
            ),
            (
                &[bust(4, 100, 0), bust(7, 100, 0)],
                &[4, 7],
                "no fill is like it",
            ),
            (
                &[bust(4, 100, 0), bust(6, 100, 0)],
                &[4],
                "got 10 of trade 0-1 of order 1 back, 4 by `trades`",
            ),
            (&[], &[4], "no event does"),
        ];

        for (busts, told, why) in wrong {
            assert!(check(busts, told).is_err_and(|e| e.contains(why)), "{why}");
        }
    }
}
