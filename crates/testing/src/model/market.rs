//! The books of the model. All orders are in one vector, and a scan of all orders finds the next
//! maker.

use super::money::{fee, need};
use super::script::{Kind, Off, Status, Tif};
use super::{Model, Order};

impl Model {
    pub fn tick(&mut self, symbol: &str, price: i64) {
        let now = self.now;
        let ahead = self.stale_ms.max(60_000);
        let s = self.symbols.get_mut(symbol).expect("listed at the start");
        if s.status == Status::Delisted {
            return;
        }

        s.tick = Some((price, now));
        s.trade = None;
        let tell = s.told.is_none_or(|(told, time)| {
            (price - told).abs() * 10_000 >= 10 * told || now - time >= 1_000 || time - now > ahead
        });

        if tell {
            s.told = s.tick;
        }

        self.quoted(symbol);
        if self.symbols[symbol].status == Status::Listed {
            self.reached(symbol, price);
        }

        self.fire(symbol);
    }

    /// A new quote of the house. The house trades with resting orders at or through the quote, at
    /// the limits of these orders.
    fn quoted(&mut self, symbol: &str) {
        if !self
            .orders
            .iter()
            .any(|o| o.symbol == symbol && o.is_open())
        {
            return;
        }

        let [ask, bid] = [true, false].map(|buy| self.quote(symbol, buy));
        self.symbols.get_mut(symbol).expect("listed").owed = ask.is_none() && bid.is_none();
        for (buy, quote) in [(true, ask), (false, bid)] {
            let Some(quote) = quote else { continue };
            let mut reached: Vec<usize> = (0..self.orders.len())
                .filter(|i| {
                    let o = &self.orders[*i];
                    let there = o.symbol == symbol
                        && o.buy == buy
                        && o.is_open()
                        && o.stop.is_none()
                        && o.deadline.is_none_or(|d| d > self.now);
                    there
                        && if buy {
                            o.limit >= quote
                        } else {
                            o.limit <= quote
                        }
                })
                .collect();

            reached.sort_by_key(|i| {
                (
                    if buy {
                        -self.orders[*i].limit
                    } else {
                        self.orders[*i].limit
                    },
                    self.orders[*i].place,
                )
            });

            for i in reached {
                let most = self.symbols[symbol].house_max.unwrap_or(i64::MAX);
                let limit = self.orders[i].limit;
                let quantity = self.orders[i].leaves().min(most);
                self.book(i, limit, quantity, "house");
            }
        }
    }

    /// The house's ask for a buyer, or its bid for a seller; none if the house does not trade.
    fn quote(&self, symbol: &str, buy: bool) -> Option<i64> {
        let s = &self.symbols[symbol];
        let (last, time) = s.tick.filter(|_| s.house && s.status == Status::Listed)?;
        let spread = (last * s.half_spread_bps + 9_999) / 10_000;
        let price = if buy {
            last + spread
        } else {
            (last - spread).max(1)
        };

        self.fresh(time).then_some(price)
    }

    /// Time has passed, or a listing has changed: expired orders end, and reached stops fire.
    pub fn wake(&mut self) {
        let now = self.now;
        for s in self.symbols.values_mut() {
            // The last price of a burst. The price is published at the first full second that is at
            // least one second after the last publication.
            let due = s
                .told
                .map(|(_, time)| (time + 1_000 + 999).div_euclid(1_000) * 1_000);
            if s.tick.map(|(price, _)| price) != s.told.map(|(price, _)| price)
                && due.is_some_and(|due| due <= now)
            {
                s.told = s.tick;
            }
        }

        let symbols: Vec<String> = self.symbols.keys().cloned().collect();
        for symbol in symbols {
            self.end_switched_off(&symbol);
            let delisted = self.symbols[&symbol].status == Status::Delisted;
            let mut dead: Vec<usize> = (0..self.orders.len())
                .filter(|i| {
                    let o = &self.orders[*i];
                    o.symbol == symbol
                        && o.is_open()
                        && (delisted || o.deadline.is_some_and(|d| d <= self.now))
                })
                .collect();

            dead.sort_by_key(|i| {
                (
                    self.orders[*i].deadline.unwrap_or(i64::MAX),
                    self.orders[*i].place,
                )
            });

            for i in dead {
                if self.orders[i].deadline.is_some_and(|d| d <= self.now) {
                    self.end(i, "OrderExpired", "expired", "", None);
                } else {
                    self.end(i, "OrderCancelled", "cancelled", "DELISTED", None);
                }
            }

            if self.symbols[&symbol].owed
                && (self.quote(&symbol, true).is_some() || self.quote(&symbol, false).is_some())
            {
                self.quoted(&symbol);
            }

            self.arm(&symbol);
            self.fire(&symbol);
        }
    }

    /// Ends the orders of stopped or disabled users: bids and offers, best price first, then stops,
    /// nearest first.
    fn end_switched_off(&mut self, symbol: &str) {
        let mut ends: Vec<(bool, bool, i64, u64, usize, &'static str)> = Vec::new();
        for (i, o) in self
            .orders
            .iter()
            .enumerate()
            .filter(|(_, o)| o.symbol == symbol && o.is_open())
        {
            let is_off = |off| {
                self.off.iter().any(|(whom, what)| {
                    *what == off && whom.as_deref().is_none_or(|whom| whom == o.user)
                })
            };

            let reason = match (is_off(Off::Everything), is_off(Off::Orders)) {
                (true, _) => "ACCOUNT_DISABLED",
                (_, true) => "KILL_SWITCH",
                _ => continue,
            };

            let nearest = match o.stop {
                Some(stop) => {
                    if o.buy {
                        stop
                    } else {
                        -stop
                    }
                }
                None => {
                    if o.buy {
                        -o.limit
                    } else {
                        o.limit
                    }
                }
            };

            ends.push((o.stop.is_some(), !o.buy, nearest, o.place, i, reason));
        }

        ends.sort();
        ends.into_iter()
            .for_each(|(.., i, reason)| self.end(i, "OrderCancelled", "cancelled", reason, None));
    }

    pub fn end(
        &mut self,
        at: usize,
        event: &'static str,
        status: &'static str,
        reason: &'static str,
        cause: Option<&str>,
    ) {
        let o = &mut self.orders[at];
        (o.status, o.reason) = (status, reason);
        let o = o.clone();
        let mut told = self.about(event, &o);
        told.reason = reason;
        told.cause_id = cause.unwrap_or(&o.id).to_string();
        self.tell(&o.user, told);
    }

    fn accept(&mut self, at: usize) {
        if self.orders[at].status == "pending_new" {
            self.orders[at].status = "new";
            let o = self.orders[at].clone();
            let told = self.about("OrderAccepted", &o);
            self.tell(&o.user, told);
        }
    }

    pub fn new_order(&mut self, user: &str, id: &str, kind: &Kind) -> Result<(), &'static str> {
        let mut o = self.check(user, kind)?;
        if o.buy {
            self.fund(user, &o.symbol, need(&o, o.quantity, o.limit), o.quantity)?;
        } else {
            self.may_sell_short(user, o.quantity > o.promised)?;
            self.fund(user, &o.symbol, o.margin, 0)?;
        }

        o.id = id.to_string();
        self.orders.push(o.clone());
        let at = self.orders.len() - 1;
        let told = self.about("OrderPending", &o);
        self.tell(user, told);
        let s = &self.symbols[&o.symbol];
        let stale = s.tick.is_none_or(|(_, time)| !self.fresh(time));
        if o.market && o.stop.is_none() && (s.tick.is_none() || stale) {
            let reason = if s.tick.is_none() {
                "NO_REFERENCE_PRICE"
            } else {
                "STALE_PRICE"
            };

            self.end(at, "OrderRejected", "rejected", reason, None);
        } else if o
            .stop
            .is_some_and(|stop| self.is_reached(&o.symbol, o.buy, stop))
        {
            self.end(at, "OrderRejected", "rejected", "STOP_WOULD_TRIGGER", None);
        } else if o.stop.is_some() {
            self.accept(at);
            self.place(at);
        } else {
            self.enter(at);
        }

        self.fire(&o.symbol);
        Ok(())
    }

    /// Enters an order that was checked and paid for elsewhere. Only the rules of the book apply.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub fn meet(&mut self, o: Order) {
        self.orders.push(o);
        self.enter(self.orders.len() - 1);
    }

    /// A request to the book alone to end an order.
    #[allow(dead_code, reason = "each test binary uses a part of it")]
    pub fn end_in_the_book(&mut self, user: &str, id: &str, cause: &str, reason: &'static str) {
        let Some(at) = self
            .orders
            .iter()
            .position(|o| o.user == user && o.id == id)
        else {
            return;
        };

        if self.orders[at].is_open() {
            self.end(at, "OrderCancelled", "cancelled", reason, Some(cause));
        } else {
            let o = self.orders[at].clone();
            let told = super::Told {
                cause_id: cause.into(),
                reason: "TOO_LATE_TO_CANCEL",
                ..self.about("CancelRejected", &o)
            };

            self.tell(user, told);
        }
    }

    fn is_reached(&self, symbol: &str, buy: bool, stop: i64) -> bool {
        let s = &self.symbols[symbol];
        self.price(symbol)
            .is_some_and(|p| if buy { stop <= p } else { stop >= p })
            || s.rose_to.is_some_and(|p| buy && stop <= p)
            || s.fell_to.is_some_and(|p| !buy && stop >= p)
    }

    /// True if a time is further ahead than clocks may differ: a clock was wrong.
    fn beyond(&self, time: i64) -> bool {
        time - self.now > self.stale_ms.max(60_000)
    }

    pub fn fresh(&self, time: i64) -> bool {
        self.now - time <= self.stale_ms && !self.beyond(time)
    }

    /// The last tick, or a later trade; with a house, only the last tick.
    fn price(&self, symbol: &str) -> Option<i64> {
        let s = &self.symbols[symbol];
        if s.house {
            return s.tick.map(|(price, _)| price);
        }

        s.trade.or(s.tick).map(|(price, _)| price)
    }

    fn place(&mut self, at: usize) {
        let s = self
            .symbols
            .get_mut(&self.orders[at].symbol)
            .expect("listed");
        self.orders[at].place = s.next_place;
        s.next_place += 1;
    }

    /// The next maker on the other side.
    fn best(&self, at: usize) -> Option<usize> {
        let o = &self.orders[at];
        let others = (0..self.orders.len()).filter(|i| {
            let m = &self.orders[*i];
            *i != at
                && m.symbol == o.symbol
                && m.buy != o.buy
                && m.is_open()
                && m.stop.is_none()
                && m.deadline.is_none_or(|d| d > self.now)
        });

        others.min_by_key(|i| {
            (
                if o.buy {
                    self.orders[*i].limit
                } else {
                    -self.orders[*i].limit
                },
                self.orders[*i].place,
            )
        })
    }

    fn suits(&self, o: &Order, price: i64) -> bool {
        if o.buy {
            price <= o.limit
        } else {
            price >= o.limit && price <= o.ceiling
        }
    }

    /// Enters an order into the book.
    fn enter(&mut self, at: usize) {
        let o = self.orders[at].clone();
        if o.post_only && self.meets_somebody(at) {
            self.end(
                at,
                "OrderRejected",
                "rejected",
                "POST_ONLY_WOULD_CROSS",
                None,
            );

            return;
        }

        if o.tif == Tif::Fok
            && let Some(reason) = self.cannot_fill(at)
        {
            self.accept(at);
            self.end(at, "OrderCancelled", "cancelled", reason, None);
            return;
        }

        let mut why = "IOC_REMAINDER";
        let mut traded = Vec::new();
        let mut of_house = self.symbols[&o.symbol].house_max.unwrap_or(i64::MAX);
        while self.orders[at].leaves() > 0 {
            let user = self.best(at).map(|m| (m, self.orders[m].limit));
            let house = self.quote(&o.symbol, o.buy).filter(|_| of_house > 0);

            // The taker gets the better price; at the same price the user's order goes before the
            // house.
            let house = house.filter(|house| {
                user.is_none_or(|(_, user)| if o.buy { *house < user } else { *house > user })
            });

            let Some(price) = house.or(user.map(|(_, price)| price)) else {
                why = if o.market { "NO_LIQUIDITY" } else { why };
                break;
            };

            if !self.suits(&o, price) {
                why = if o.market { "PRICE_BAND" } else { why };
                break;
            }

            if house.is_some() {
                let quantity = self.orders[at].leaves().min(of_house);
                of_house -= quantity;
                self.accept(at);
                self.book(at, price, quantity, "house");
                continue;
            }

            let (m, _) = user.expect("it is not the house");
            if self.orders[m].user == o.user {
                why = "SELF_TRADE_PREVENTED";
                break;
            }

            let quantity = self.orders[at].leaves().min(self.orders[m].leaves());
            self.accept(at);
            self.book(at, price, quantity, "taker");
            self.book(m, price, quantity, "maker");
            traded.push(price);
        }

        if !self.symbols[&o.symbol].house {
            for price in traded {
                self.symbols.get_mut(&o.symbol).expect("listed").trade = Some((price, self.now));
                self.reached(&o.symbol, price);
            }
        }

        if self.orders[at].leaves() == 0 {
            return;
        }

        self.accept(at);
        if why == "SELF_TRADE_PREVENTED" || o.market || matches!(o.tif, Tif::Ioc | Tif::Fok) {
            self.end(at, "OrderCancelled", "cancelled", why, None);
        } else {
            self.place(at);

            // Only orders that already rest can be owed a quote. If no other order rests, the owed
            // quote lapses.
            let alone = !self.orders.iter().any(|other| {
                other.symbol == o.symbol
                    && other.stop.is_none()
                    && other.is_open()
                    && (&other.user, &other.id) != (&o.user, &o.id)
            });

            let s = self.symbols.get_mut(&o.symbol).expect("listed");
            s.owed = (s.owed && !alone) || !s.house;
        }
    }

    /// True if a user or the house offers the limit of the order, or a better price.
    fn meets_somebody(&self, at: usize) -> bool {
        let o = &self.orders[at];
        let user = self.best(at).map(|m| self.orders[m].limit);
        [user, self.quote(&o.symbol, o.buy)]
            .into_iter()
            .flatten()
            .any(|price| {
                if o.buy {
                    price <= o.limit
                } else {
                    price >= o.limit
                }
            })
    }

    /// Reason for which a fill-or-kill order cannot be filled. Goes through the prices without
    /// trading.
    fn cannot_fill(&self, at: usize) -> Option<&'static str> {
        let o = &self.orders[at];
        let mut left = o.leaves();

        // Users' orders that the order may meet, and the house (after the users' orders at its
        // price).
        let mut all: Vec<(i64, u64, Option<usize>)> = (0..self.orders.len())
            .filter(|i| {
                let m = &self.orders[*i];
                let there = *i != at
                    && m.symbol == o.symbol
                    && m.buy != o.buy
                    && m.is_open()
                    && m.stop.is_none();
                there && m.deadline.is_none_or(|d| d > self.now)
            })
            .map(|i| {
                (
                    if o.buy {
                        self.orders[i].limit
                    } else {
                        -self.orders[i].limit
                    },
                    self.orders[i].place,
                    Some(i),
                )
            })
            .collect();

        all.extend(
            self.quote(&o.symbol, o.buy)
                .map(|price| (if o.buy { price } else { -price }, u64::MAX, None)),
        );
        all.sort();
        for (_, _, who) in all
            .into_iter()
            .take_while(|(price, _, _)| self.suits(o, price.abs()))
        {
            left -= match who {
                None => self.symbols[&o.symbol].house_max.unwrap_or(i64::MAX / 2),
                Some(m) if self.orders[m].user == o.user => return Some("SELF_TRADE_PREVENTED"),
                Some(m) => self.orders[m].leaves(),
            };

            if left <= 0 {
                return None;
            }
        }

        Some("FOK_UNFILLED")
    }

    fn stops(&self, symbol: &str, buy: bool) -> Vec<usize> {
        let mut all: Vec<usize> = (0..self.orders.len())
            .filter(|i| {
                let o = &self.orders[*i];
                o.symbol == symbol && o.buy == buy && o.is_open() && o.stop.is_some()
            })
            .collect();
        all.sort_by_key(|i| {
            let stop = self.orders[*i].stop.expect("a stop");
            (if buy { stop } else { -stop }, self.orders[*i].place)
        });

        all
    }

    fn arm(&mut self, symbol: &str) {
        if self.symbols[symbol].status == Status::Listed
            && let Some(price) = self.price(symbol)
        {
            self.reached(symbol, price);
        }
    }

    fn reached(&mut self, symbol: &str, price: i64) {
        let rises = self
            .stops(symbol, true)
            .iter()
            .any(|i| self.orders[*i].stop.is_some_and(|s| s <= price));
        let falls = self
            .stops(symbol, false)
            .iter()
            .any(|i| self.orders[*i].stop.is_some_and(|s| s >= price));
        let s = self.symbols.get_mut(symbol).expect("listed");
        if rises {
            s.rose_to = Some(s.rose_to.map_or(price, |p| p.max(price)));
        }

        if falls {
            s.fell_to = Some(s.fell_to.map_or(price, |p| p.min(price)));
        }
    }

    fn fire(&mut self, symbol: &str) {
        while self.symbols[symbol].status == Status::Listed {
            let rose = self.symbols[symbol].rose_to;
            let fell = self.symbols[symbol].fell_to;
            let buy = self
                .stops(symbol, true)
                .first()
                .copied()
                .filter(|i| rose.is_some_and(|p| self.orders[*i].stop.is_some_and(|s| s <= p)));
            if buy.is_none() {
                self.symbols.get_mut(symbol).expect("listed").rose_to = None;
            }

            let sell = self
                .stops(symbol, false)
                .first()
                .copied()
                .filter(|i| fell.is_some_and(|p| self.orders[*i].stop.is_some_and(|s| s >= p)));
            if buy.is_none() && sell.is_none() {
                self.symbols.get_mut(symbol).expect("listed").fell_to = None;
            }

            let Some(at) = buy.or(sell) else { return };
            let price = if self.orders[at].buy { rose } else { fell }.expect("it was reached");
            let o = &mut self.orders[at];
            o.stop = None;
            if o.market {
                let collar = (price * 500 + 9_999) / 10_000;
                let worst = if o.buy {
                    price + collar
                } else {
                    (price - collar).max(1)
                };

                if o.buy && worst > o.limit {
                    // The order rests at the price that its cash covers.
                    (o.market, o.tif) = (
                        false,
                        if o.tif == Tif::Fok {
                            Tif::Fok
                        } else {
                            Tif::Gtc
                        },
                    );
                } else {
                    o.limit = worst;
                }
            }

            let o = o.clone();
            let told = super::Told {
                trigger: Some((price, o.limit)),
                ..self.about("OrderTriggered", &o)
            };

            self.tell(&o.user, told);
            self.enter(at);
        }
    }

    /// The order named by a command: accepted and still open.
    fn open(&self, user: &str, orig: &str) -> Result<usize, &'static str> {
        let at = self
            .orders
            .iter()
            .position(|o| o.user == user && o.id == orig && o.status != "rejected")
            .ok_or("UNKNOWN_ORDER")?;
        if self.orders[at].is_open() {
            Ok(at)
        } else {
            Err("TOO_LATE_TO_CANCEL")
        }
    }

    pub fn cancel(
        &mut self,
        user: &str,
        id: &str,
        orig: &str,
        operator: bool,
    ) -> Result<(), &'static str> {
        let at = self.open(user, orig)?;
        self.end(
            at,
            "OrderCancelled",
            "cancelled",
            if operator { "OPERATOR" } else { "USER_REQUEST" },
            Some(id),
        );

        Ok(())
    }

    pub fn mass_cancel(
        &mut self,
        user: &str,
        id: &str,
        symbol: Option<&str>,
        operator: bool,
    ) -> Result<(), &'static str> {
        let reason = if operator { "OPERATOR" } else { "MASS_CANCEL" };
        let mut all: Vec<usize> = (0..self.orders.len())
            .filter(|i| {
                let o = &self.orders[*i];
                o.user == user && o.is_open() && symbol.is_none_or(|s| s == o.symbol)
            })
            .collect();
        all.sort_by_key(|i| (self.orders[*i].symbol.clone(), self.orders[*i].id.clone()));
        if all.is_empty() {
            return Err("UNKNOWN_ORDER");
        }

        all.into_iter()
            .for_each(|i| self.end(i, "OrderCancelled", "cancelled", reason, Some(id)));
        Ok(())
    }

    pub fn replace(
        &mut self,
        user: &str,
        id: &str,
        orig: &str,
        quantity: Option<i64>,
        limit: Option<i64>,
    ) -> Result<(), &'static str> {
        let at = self.open(user, orig)?;
        let o = self.orders[at].clone();
        let new_quantity = quantity.unwrap_or(o.quantity);
        if new_quantity < 1 {
            return Err("INCORRECT_QUANTITY");
        }

        if (quantity.is_none() && limit.is_none()) || (limit.is_some() && !o.has_limit) {
            return Err("UNSUPPORTED_CHARACTERISTIC");
        }

        let s = &self.symbols[&o.symbol];
        match s.status {
            Status::Delisted => return Err("UNKNOWN_SYMBOL"),
            Status::Halted => return Err("SYMBOL_HALTED"),
            Status::Listed => {}
        }

        let new_limit = limit.unwrap_or(o.limit);
        if limit.is_some_and(|p| p <= 0 || p % 100 != 0) {
            return Err("INVALID_PRICE_INCREMENT");
        }

        if !o.has_limit && s.clip.is_some_and(|clip| new_quantity > clip) {
            return Err("CLIP_SIZE");
        }

        // Shares that became free in the meantime cover the part that was sold short.
        let left = (new_quantity - o.cum).max(0);
        let own = if o.buy {
            0
        } else {
            o.promised + self.sellable(user, &o.symbol)
        };

        let short = !o.buy && left > own;
        if short && s.short_ok && o.unit == 0 && s.told.is_none() {
            return Err("NO_REFERENCE_PRICE");
        }

        let costs_more = new_quantity > o.quantity || new_limit < o.limit;
        let unit = if short && (o.unit == 0 || s.short_ok && costs_more) {
            s.short_unit(new_limit).max(o.unit)
        } else {
            o.unit
        };

        let margin = if short { (left - own) * unit } else { 0 };
        let told = s.told.filter(|(_, time)| self.fresh(*time)).map(|(p, _)| p);
        let near = |center: i64| s.near(o.buy, new_limit, center, true);
        let centers: Vec<i64> = [self.known_stop(user, orig), told]
            .into_iter()
            .flatten()
            .collect();
        if new_limit != o.limit && !centers.is_empty() && !centers.into_iter().any(near) {
            return Err("PRICE_BAND");
        }

        if short && new_quantity > o.quantity && !s.short_ok {
            return Err("SHORT_SELL_NOT_PERMITTED");
        }

        self.may_sell_short(user, short && new_quantity > o.quantity)?;

        // Until the book has answered, the order may trade at its old limit and afterwards continue
        // at the new limit.
        let rest = o.leaves() * o.limit + (new_quantity - o.quantity).max(0) * new_limit;

        // One unit for the fees of two parts, each rounded up.
        let apart = i64::from(o.fee_bps > 0 && new_quantity > o.quantity);
        let both = rest + fee(o.value + rest, o.fee_bps) - fee(o.value, o.fee_bps) + apart;
        if o.buy {
            let more = need(&o, new_quantity, new_limit).max(both) - need(&o, o.quantity, o.limit);
            self.fund(user, &o.symbol, more, new_quantity - o.cum)?;
        } else {
            self.fund(user, &o.symbol, (margin - o.margin).max(0), 0)?;

            // The order keeps these shares and this cash, even if the book refuses the replace.
            let o = &mut self.orders[at];
            (o.promised, o.unit, o.margin) =
                (own.min(left.max(o.promised)), unit, margin.max(o.margin));
        }

        let o = self.orders[at].clone();
        let promised = o.promised.min(left);
        let margin = o.margin.min(margin);
        if new_quantity <= o.cum {
            (
                self.orders[at].quantity,
                self.orders[at].limit,
                self.orders[at].status,
            ) = (o.cum, new_limit, "filled");
            self.told_replaced(at, id);
        } else if new_limit == o.limit && new_quantity <= o.quantity {
            self.orders[at] = Order {
                quantity: new_quantity,
                promised,
                margin,
                ..o
            };

            self.told_replaced(at, id);
        } else {
            let changed = Order {
                quantity: new_quantity,
                limit: new_limit,
                promised,
                margin,
                ..o.clone()
            };

            self.orders[at].limit = new_limit;
            let crossed = self.meets_somebody(at);
            self.orders[at].limit = o.limit;
            if o.post_only && crossed {
                let promised = o.promised.min(o.leaves());
                let margin = o.margin.min((o.leaves() - promised) * o.unit);
                self.orders[at] = Order {
                    promised,
                    margin,
                    ..o.clone()
                };

                let told = super::Told {
                    cause_id: id.into(),
                    reason: "POST_ONLY_WOULD_CROSS",
                    ..self.about("CancelRejected", &o)
                };

                self.tell(user, told);
                return Ok(());
            }

            self.orders[at] = changed;
            self.told_replaced(at, id);
            if o.stop.is_some() {
                self.place(at);
            } else {
                // Post-only applied at the first entry. The check above has already handled a
                // replace that would cross.
                self.enter(at);
            }

            self.fire(&o.symbol);
        }

        Ok(())
    }

    fn known_stop(&self, user: &str, orig: &str) -> Option<i64> {
        match &self
            .known
            .get(&(user.to_string(), orig.to_string()))?
            .content
        {
            super::Command::Order {
                kind: Kind::New { stop, .. },
                ..
            } => *stop,
            _ => None,
        }
    }

    fn told_replaced(&mut self, at: usize, cause: &str) {
        let o = self.orders[at].clone();
        let told = super::Told {
            cause_id: cause.into(),
            ..self.about("OrderReplaced", &o)
        };

        self.tell(&o.user, told);
    }

    /// All resting and waiting orders, in the order in which they would trade.
    pub fn books(&self) -> Vec<(String, bool, bool, i64, i64, String, String)> {
        let mut all: Vec<&Order> = self.orders.iter().filter(|o| o.is_open()).collect();
        all.sort_by_key(|o| (o.symbol.clone(), o.place));
        all.iter()
            .map(|o| {
                (
                    o.symbol.clone(),
                    o.buy,
                    o.stop.is_some(),
                    o.limit,
                    o.leaves(),
                    o.user.clone(),
                    o.id.clone(),
                )
            })
            .collect()
    }
}
