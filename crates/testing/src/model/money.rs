//! The money of the model. The model stores only cash, shares and debts. Reservations are computed
//! from the open orders and the short shares at each request.

use super::script::Kind;
use super::{Fill, Model, Order, Symbol, Told};

/// A fee on the sum of an order's trades, rounded up.
pub fn fee(value: i64, bps: i64) -> i64 {
    i64::try_from((i128::from(value) * i128::from(bps) + 9_999) / 10_000).expect("small")
}

impl Model {
    pub fn reserved(&self, user: &str) -> i64 {
        let of = |o: &Order| {
            if o.buy {
                need(o, o.quantity, o.limit)
            } else {
                o.margin
            }
        };

        let orders: i64 = self
            .orders
            .iter()
            .filter(|o| o.user == user && o.is_open())
            .map(of)
            .sum();
        orders
            + self.users[user]
                .owed
                .values()
                .map(|(_, held)| held)
                .sum::<i64>()
    }

    pub fn available(&self, user: &str) -> i64 {
        self.users[user].cash - self.reserved(user)
    }

    /// Shares that no open sell has reserved.
    pub fn sellable(&self, user: &str, symbol: &str) -> i64 {
        let promised: i64 = self
            .orders
            .iter()
            .filter(|o| o.user == user && o.symbol == symbol && !o.buy)
            .map(Order::keeps)
            .sum();
        self.users[user].shares.get(symbol).copied().unwrap_or(0) - promised
    }

    pub fn transfer(
        &mut self,
        user: &str,
        id: &str,
        amount: i64,
        deposit: bool,
    ) -> Result<(), &'static str> {
        if amount <= 0 {
            return Err("INVALID_AMOUNT");
        }

        if !deposit && amount > self.available(user) {
            return Err(self.lacks_cash(user));
        }

        let u = self.users.get_mut(user).expect("opened");
        u.cash += if deposit { amount } else { -amount };
        let told = Told {
            event: if deposit { "Deposited" } else { "Withdrawn" },
            order_id: id.into(),
            cause_id: id.into(),
            status: "filled",
            ..Told::default()
        };

        self.tell(user, told);
        Ok(())
    }

    /// Books one side of a trade and tells its owner.
    pub fn book(&mut self, at: usize, price: i64, quantity: i64, liquidity: &'static str) {
        // The maker's side is booked after the taker's.
        self.trades += u64::from(liquidity != "maker");
        let trade = format!("0-{}", self.trades);
        let o = &mut self.orders[at];
        let value = price * quantity;
        let charged = fee(o.value + value, o.fee_bps) - fee(o.value, o.fee_bps);
        let within = if o.buy {
            price <= o.limit
        } else {
            price >= o.limit && price <= o.ceiling
        };

        assert!(
            within && quantity <= o.leaves(),
            "the model itself is wrong"
        );
        o.value += value;
        o.cum += quantity;
        o.fills.push(Fill {
            trade: trade.clone(),
            quantity,
            price,
            charged,
            house: liquidity == "house",
            back: 0,
        });

        let whole = o.cum == o.quantity;
        o.status = if whole { "filled" } else { "partially_filled" };
        let own = if o.buy { 0 } else { quantity.min(o.promised) };
        o.promised -= own;
        let held = if o.buy {
            0
        } else {
            o.margin.min((quantity - own) * o.unit)
        };

        o.margin -= held;
        let o = o.clone();
        let u = self.users.get_mut(&o.user).expect("opened");
        u.cash += if o.buy {
            -value - charged
        } else {
            value - charged
        };

        *u.shares.entry(o.symbol.clone()).or_default() += if o.buy { quantity } else { -own };
        let owed = u.owed.get(&o.symbol).map_or(0, |(owed, _)| *owed);
        if !o.buy && quantity > own {
            // The existing hold stays, and the proceeds of the short part are held too, after the
            // fee.
            let short = quantity - own;
            let brought = (price * short).min(value - charged).max(0);
            let owed = u.owed.entry(o.symbol.clone()).or_default();
            *owed = (owed.0 + short, owed.1 + held + brought);
            self.saw("a short sale");
            if own > 0 {
                self.saw("a sale from long to short");
            }
        } else if o.buy && owed > 0 {
            self.saw(if quantity > owed {
                "a cover through zero"
            } else {
                "a cover"
            });
        }

        let event = if whole {
            "OrderFilled"
        } else {
            "OrderPartiallyFilled"
        };

        let told = Told {
            last: Some((quantity, price, charged, liquidity)),
            trade,
            ..self.about(event, &o)
        };

        self.tell(&o.user, told);
    }

    /// Reject reason of an account without enough cash.
    fn lacks_cash(&self, user: &str) -> &'static str {
        if self.available(user) < 0 {
            "DEBIT_BALANCE"
        } else {
            "INSUFFICIENT_FUNDS"
        }
    }

    /// A user in debt may not sell short, even if the sale holds no cash.
    pub fn may_sell_short(&self, user: &str, short: bool) -> Result<(), &'static str> {
        if short && self.available(user) < 0 {
            Err("DEBIT_BALANCE")
        } else {
            Ok(())
        }
    }

    /// Reserves cash for an order. A buy that covers short shares may use the cash held for them:
    /// their proportional part, or their cost at the collar if that is higher.
    pub fn fund(
        &mut self,
        user: &str,
        symbol: &str,
        cash: i64,
        covers: i64,
    ) -> Result<(), &'static str> {
        let lacks = cash - self.available(user).max(0);
        if lacks <= 0 {
            return Ok(());
        }

        let (owed, held) = self.users[user]
            .owed
            .get(symbol)
            .copied()
            .unwrap_or_default();
        let covers = covers.min(owed);
        let s = &self.symbols[symbol];
        let lends = if covers <= 0 {
            0
        } else {
            let cost = s.told.map_or(0, |(price, _)| {
                let value = covers * (price + (price * 500 + 9_999) / 10_000);
                value + fee(value, s.fee_bps)
            });

            held.min(cost.max(held * covers / owed))
        };

        if lacks > lends {
            return Err(self.lacks_cash(user));
        }

        self.users
            .get_mut(user)
            .expect("opened")
            .owed
            .get_mut(symbol)
            .expect("it lends")
            .1 -= lacks;

        Ok(())
    }

    /// Unreserved shares cover short shares. The last covered share frees the whole hold.
    pub fn cover(&mut self, user: &str) {
        let symbols: Vec<String> = self.users[user].owed.keys().cloned().collect();
        for symbol in symbols {
            let free = self.sellable(user, &symbol);
            let u = self.users.get_mut(user).expect("opened");
            let (owed, held) = u.owed[&symbol];
            let covered = owed.min(free);
            if covered > 0 {
                *u.shares.get_mut(&symbol).expect("free ones") -= covered;
                u.owed.insert(
                    symbol.clone(),
                    (owed - covered, held - held * covered / owed),
                );
            }

            u.owed.retain(|_, (owed, _)| *owed > 0);
        }
    }

    /// Adjusts the holds of short shares to the present price. First the holds that shrink, then
    /// the holds that grow, as far as cash suffices.
    pub fn mark(&mut self, user: &str) {
        for frees in [true, false] {
            let symbols: Vec<String> = self.users[user].owed.keys().cloned().collect();
            for symbol in symbols {
                let Some((price, _)) = self.symbols[&symbol].told else {
                    continue;
                };

                let (owed, held) = self.users[user].owed[&symbol];
                let due = owed * price
                    + (owed * price * self.symbols[&symbol].margin_bps + 9_999) / 10_000;
                if due != held && (due < held) == frees {
                    let held = due.min(held + self.available(user).max(0));
                    self.users
                        .get_mut(user)
                        .expect("opened")
                        .owed
                        .insert(symbol, (owed, held));
                    if held < due {
                        self.saw("a mark that leaves nothing available");
                    }
                }
            }
        }
    }

    /// An operator busts a trade, wholly or in part, regardless of the later use of its proceeds.
    /// The description must match the trade. A refusal names the field that differs.
    pub fn bust(
        &mut self,
        user: &str,
        id: &str,
        kind: &Kind,
    ) -> Result<(), (&'static str, &'static str)> {
        let Kind::Bust {
            orig,
            trade,
            quantity,
            price,
            fee,
            symbol,
        } = kind
        else {
            unreachable!()
        };

        let found = self
            .orders
            .iter()
            .position(|o| o.user == user && o.id == *orig && o.status != "rejected");
        let at = found.ok_or(("UNKNOWN_ORDER", ""))?;
        let o = self.orders[at].clone();
        if o.is_open() {
            return Err(("SYSTEM_BUSY", ""));
        }

        let number = o
            .fills
            .iter()
            .position(|f| f.trade == *trade)
            .ok_or(("UNKNOWN_TRADE", ""))?;
        let f = o.fills[number].clone();
        if f.back == f.quantity {
            return Err(("TOO_LATE_TO_CANCEL", ""));
        }

        if *quantity < 1 || *quantity > f.quantity - f.back {
            return Err(("INCORRECT_QUANTITY", ""));
        }

        if *price < 1 {
            return Err(("INVALID_AMOUNT", ""));
        }

        let due = f.charged * (f.back + quantity) / f.quantity - f.charged * f.back / f.quantity;
        let differ = [
            ("symbol", symbol.as_ref().is_some_and(|s| *s != o.symbol)),
            ("price", *price != f.price),
            ("fee", fee.is_some_and(|fee| fee != due)),
        ];
        if let Some((field, _)) = differ.iter().find(|(_, differs)| *differs) {
            return Err(("TRADE_MISMATCH", field));
        }

        if self.users[user].owed.contains_key(&o.symbol) {
            self.saw(if o.buy {
                "a bust of a buy by a user who owes shares"
            } else {
                "a bust of a short sale"
            });
        }

        let here = if o.buy {
            self.sellable(user, &o.symbol).clamp(0, *quantity)
        } else {
            0
        };

        let u = self.users.get_mut(user).expect("opened");
        u.cash += due
            + if o.buy {
                price * quantity
            } else {
                -price * quantity
            };

        *u.shares.entry(o.symbol.clone()).or_default() += if o.buy { -here } else { *quantity };
        if o.buy && here < *quantity {
            let owed = u.owed.entry(o.symbol.clone()).or_default();
            *owed = (owed.0 + quantity - here, owed.1 + price * (quantity - here));
        }

        self.cover(user);
        self.mark(user);
        let o = &mut self.orders[at];
        o.fills[number].back += quantity;
        (o.cum, o.value) = (o.cum - quantity, o.value - price * quantity);
        if o.status == "filled" {
            (o.status, o.reason) = ("cancelled", "OPERATOR");
        }

        let o = o.clone();
        let other = if f.house {
            format!("house:{}", o.symbol)
        } else {
            String::new()
        };

        let (buyer, seller) = if o.buy {
            (user.to_string(), other)
        } else {
            (other, user.to_string())
        };

        self.busts
            .push((trade.clone(), buyer, seller, *quantity, *price));
        let told = Told {
            cause_id: id.into(),
            last: Some((*quantity, *price, -due, "")),
            trade: trade.clone(),
            ..self.about("TradeBusted", &o)
        };

        self.tell(user, told);
        Ok(())
    }

    /// The checks of a new order, in their order.
    pub fn check(&self, user: &str, kind: &Kind) -> Result<Order, &'static str> {
        let Kind::New {
            symbol,
            buy,
            quantity,
            limit,
            stop,
            tif,
            expire_at,
            post_only,
        } = kind
        else {
            unreachable!()
        };

        use super::script::{Status, Tif};
        let market = limit.is_none();
        let passing = matches!(tif, Tif::Ioc | Tif::Fok);
        let fits = (*tif == Tif::Gtd) == expire_at.is_some()
            && !(market && stop.is_none() && !passing)
            && !(*post_only && (market || stop.is_some() || passing));
        if *quantity < 1 {
            return Err("INCORRECT_QUANTITY");
        }

        if !fits {
            return Err("UNSUPPORTED_CHARACTERISTIC");
        }

        let s = self
            .symbols
            .get(symbol)
            .filter(|s| s.status != Status::Delisted)
            .ok_or("UNKNOWN_SYMBOL")?;
        if s.status != Status::Listed {
            return Err("SYMBOL_HALTED");
        }

        let day = 86_400_000;
        let deadline = match tif {
            Tif::Day => Some((self.now / day + 1) * day),
            _ => *expire_at,
        };

        if deadline.is_some_and(|d| d <= self.now) {
            return Err("TOO_LATE_TO_ENTER");
        }

        if [*limit, *stop]
            .into_iter()
            .flatten()
            .any(|p| p <= 0 || p % 100 != 0)
        {
            return Err("INVALID_PRICE_INCREMENT");
        }

        if market && s.clip.is_some_and(|clip| *quantity > clip) {
            return Err("CLIP_SIZE");
        }

        let promised = if *buy {
            0
        } else {
            self.sellable(user, symbol).min(*quantity)
        };

        let short = !*buy && *quantity > promised;
        if ((market && stop.is_none()) || (short && s.short_ok)) && s.told.is_none() {
            return Err("NO_REFERENCE_PRICE");
        }

        let reference = s.told.map(|(price, _)| price);
        let base = stop.or(reference).unwrap_or(0);
        let collar = (base * 500 + 9_999) / 10_000;
        let worst = limit.unwrap_or(if *buy {
            base + collar
        } else {
            (base - collar).max(1)
        });

        if market && stop.is_none() && s.told.is_some_and(|(_, time)| !self.fresh(time)) {
            return Err("STALE_PRICE");
        }

        let fresh = s
            .told
            .filter(|(_, time)| self.fresh(*time))
            .map(|(price, _)| price);
        let rests = stop.is_some() || !passing;
        if let (Some(limit), Some(center)) = (limit, stop.or(fresh))
            && !s.near(*buy, *limit, center, rests)
        {
            return Err("PRICE_BAND");
        }

        let o = Order {
            user: user.into(),
            id: String::new(),
            symbol: symbol.clone(),
            buy: *buy,
            quantity: *quantity,
            cum: 0,
            value: 0,
            limit: worst,
            has_limit: limit.is_some(),
            stop: *stop,
            market,
            tif: *tif,
            post_only: *post_only,
            deadline,
            place: 0,
            status: "pending_new",
            reason: "",
            fills: Vec::new(),
            fee_bps: s.fee_bps,
            promised,
            unit: if short { s.short_unit(worst) } else { 0 },
            margin: if short {
                (*quantity - promised) * s.short_unit(worst)
            } else {
                0
            },
            ceiling: 100
                * [
                    limit.unwrap_or(0),
                    stop.unwrap_or(0),
                    reference.unwrap_or(0),
                ]
                .into_iter()
                .max()
                .expect("three"),
        };

        if short && !s.short_ok {
            return Err("SHORT_SELL_NOT_PERMITTED");
        }

        Ok(o)
    }
}

impl Symbol {
    /// Cash held for each share sold short: the margin, and the distance of the limit below the
    /// price.
    pub fn short_unit(&self, limit: i64) -> i64 {
        self.told.map_or(0, |(price, _)| {
            (price * self.margin_bps + 9_999) / 10_000 + (price - limit).max(0)
        })
    }

    /// True if a limit is not much worse than a price for its owner. The limit of an order that may
    /// rest must not be much better either.
    pub fn near(&self, buy: bool, limit: i64, center: i64, rests: bool) -> bool {
        let worse = if buy { limit - center } else { center - limit };
        worse * 10_000 <= 500 * center
            && (!rests
                || self
                    .limit_band_bps
                    .is_none_or(|bps| -worse * 10_000 <= bps * center))
    }
}

/// Cash that a buy needs for its remaining quantity.
pub fn need(o: &Order, quantity: i64, limit: i64) -> i64 {
    let rest = (quantity - o.cum).max(0) * limit;
    rest + fee(o.value + rest, o.fee_bps) - fee(o.value, o.fee_bps)
}
