//! Records between `orders` and `trading`: `book-commands` (keyed by symbol) and `executions`
//! (keyed by user). The topics are internal, but their records are maps, too. So an old record
//! stays readable when fields are added.

use domain::book::{FOREVER, Life};
use domain::named_enum;
use domain::price::Priced;
use domain::reason::Reason;
use domain::status::{Liquidity, Side};

use super::event::named;
use super::input::{Fault, read_map};
use super::writer::MapWriter;

/// `type` header of book commands.
pub const BOOK_COMMAND: &str = "BookCommand";
/// `type` header of executions.
pub const EXECUTION: &str = "Execution";

/// A reserved order on its way to the book.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewOrder {
    pub side: Side,
    /// Order quantity, in shares.
    pub quantity: i64,
    /// A market order: the user gave no limit price.
    pub market: bool,
    /// Worst price at which the order may trade, in 10^-4 units.
    pub limit_e4: i64,
    /// Highest price at which a sell may trade: its account cannot take more. `i64::MAX`: no bound.
    pub ceiling_e4: i64,
    /// Stop price, in 10^-4 units. The order waits until the market reaches this price.
    pub stop_e4: Option<i64>,
    /// Handling of the quantity that does not trade at once.
    pub life: Life,
    /// Time from which the order must not trade, in milliseconds since 1970.
    pub deadline_ms: i64,
    /// The order must not trade on arrival.
    pub post_only: bool,
    /// The tick that a market order without a stop was checked against.
    pub reference: Option<Priced>,
}

named_enum! {
    /// Kind of a book command.
    Verb {
        /// Add an order.
        New = 1, "new";
        /// End an order.
        Cancel = 2, "cancel";
        /// Change an order.
        Replace = 3, "replace";
    }
}

/// Kind of a book command, with its arguments.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum BookAction<'a> {
    /// Add an order.
    New(NewOrder),
    /// End an order.
    Cancel {
        /// Id of the command that causes the end.
        cause_id: &'a str,
        /// Reason for the end, shown in the order's last event.
        reason: Reason,
    },
    /// Change an order.
    Replace {
        /// Id of the command that causes the change.
        cause_id: &'a str,
        /// New total quantity, including the quantity that has traded.
        quantity: i64,
        /// New limit, in 10^-4 units.
        limit_e4: i64,
        /// New ceiling, in 10^-4 units.
        ceiling_e4: i64,
    },
}

/// A command to the book of one symbol.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct BookCommand<'a> {
    /// User of the order. The executions go back to this key.
    pub user_id: &'a str,
    pub order_id: &'a str,
    pub symbol: &'a str,
    /// Kind and arguments of the command.
    pub ask: BookAction<'a>,
}

impl<'a> BookCommand<'a> {
    /// Appends the command as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", self.user_id)
            .text("order_id", self.order_id)
            .text("symbol", self.symbol);
        match self.ask {
            BookAction::New(o) => {
                w.text("side", o.side.name())
                    .int("quantity", o.quantity)
                    .int("limit_e4", o.limit_e4);

                // Most orders have the defaults, so leave the defaults out.
                if o.market {
                    w.flag("market", true);
                }

                w.maybe_int(
                    "ceiling_e4",
                    (o.ceiling_e4 != i64::MAX).then_some(o.ceiling_e4),
                );
                w.maybe_int("stop_e4", o.stop_e4)
                    .text("life", o.life.name());
                w.maybe_int(
                    "deadline_ms",
                    (o.deadline_ms != FOREVER).then_some(o.deadline_ms),
                );
                if o.post_only {
                    w.flag("post_only", true);
                }

                w.maybe_int("tick_e4", o.reference.map(|t| t.price_e4))
                    .maybe_int("tick_ms", o.reference.map(|t| t.time_ms));
            }
            BookAction::Cancel { cause_id, reason } => {
                w.text("verb", Verb::Cancel.name())
                    .text("cause_id", cause_id)
                    .text("reason", reason.name());
            }
            BookAction::Replace {
                cause_id,
                quantity,
                limit_e4,
                ceiling_e4,
            } => {
                w.text("verb", Verb::Replace.name())
                    .text("cause_id", cause_id);
                w.int("quantity", quantity)
                    .int("limit_e4", limit_e4)
                    .int("ceiling_e4", ceiling_e4);
            }
        }

        w.end();
    }

    /// Decodes a command that [`BookCommand::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let f = CommandFields::read(bytes)?;
        Ok(BookCommand {
            user_id: f.user_id.ok_or(INCOMPLETE)?,
            order_id: f.order_id.ok_or(INCOMPLETE)?,
            symbol: f.symbol.ok_or(INCOMPLETE)?,
            ask: f.action()?,
        })
    }
}

const INCOMPLETE: Fault = "a book command without one of its fields";

/// The fields of a book command that a record has.
#[derive(Default)]
struct CommandFields<'a> {
    user_id: Option<&'a str>,
    order_id: Option<&'a str>,
    symbol: Option<&'a str>,
    side: Option<Side>,
    quantity: Option<i64>,
    limit_e4: Option<i64>,
    ceiling_e4: Option<i64>,
    value_max_e4: Option<i64>,
    stop_e4: Option<i64>,
    deadline_ms: Option<i64>,
    /// A record without a verb adds an order. `None`: the verb is unknown.
    verb: Option<Verb>,
    life: Option<Life>,
    cause_id: Option<&'a str>,
    reason: Option<Reason>,
    market: bool,
    post_only: bool,
    tick_e4: Option<i64>,
    tick_ms: Option<i64>,
}

impl<'a> CommandFields<'a> {
    #[inline]
    fn read(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut f = CommandFields {
            verb: Some(Verb::New),
            ..CommandFields::default()
        };

        let fault = read_map(bytes, |name, v| match name {
            "user_id" => f.user_id = v.plain_text(),
            "order_id" => f.order_id = v.plain_text(),
            "symbol" => f.symbol = v.plain_text(),
            "side" => f.side = named(v, Side::from_name).flatten(),
            "quantity" => f.quantity = v.i64(),
            "limit_e4" => f.limit_e4 = v.i64(),
            // Name of `limit_e4` in the first version, which had only market orders.
            "worst_price_e4" => (f.limit_e4, f.market, f.life) = (v.i64(), true, Some(Life::Ioc)),
            "value_max_e4" => f.value_max_e4 = v.i64(),
            "ceiling_e4" => f.ceiling_e4 = v.i64(),
            "stop_e4" => f.stop_e4 = v.i64(),
            "deadline_ms" => f.deadline_ms = v.i64(),
            "verb" => f.verb = named(v, Verb::from_name).flatten(),
            "life" => f.life = named(v, Life::from_name).flatten(),
            "cause_id" => f.cause_id = v.plain_text(),
            "reason" => f.reason = named(v, Reason::from_name).flatten(),
            "market" => f.market = true,
            "post_only" => f.post_only = true,
            "tick_e4" => f.tick_e4 = v.i64(),
            "tick_ms" => f.tick_ms = v.i64(),
            _ => {}
        })?;

        fault.map_or(Ok(f), Err)
    }

    #[inline]
    fn action(&self) -> Result<BookAction<'a>, Fault> {
        Ok(match self.verb.ok_or(INCOMPLETE)? {
            Verb::New => BookAction::New(NewOrder {
                side: self.side.ok_or(INCOMPLETE)?,
                quantity: self.quantity.ok_or(INCOMPLETE)?,
                market: self.market,
                limit_e4: self.limit_e4.ok_or(INCOMPLETE)?,
                ceiling_e4: self.ceiling_e4().unwrap_or(i64::MAX),
                stop_e4: self.stop_e4,
                life: self.life.ok_or(INCOMPLETE)?,
                deadline_ms: self.deadline_ms.unwrap_or(FOREVER),
                post_only: self.post_only,
                reference: self
                    .tick_e4
                    .zip(self.tick_ms)
                    .map(|(price_e4, time_ms)| Priced { price_e4, time_ms }),
            }),
            Verb::Cancel => BookAction::Cancel {
                cause_id: self.cause_id.ok_or(INCOMPLETE)?,
                reason: self.reason.ok_or(INCOMPLETE)?,
            },
            Verb::Replace => BookAction::Replace {
                cause_id: self.cause_id.ok_or(INCOMPLETE)?,
                quantity: self.quantity.ok_or(INCOMPLETE)?,
                limit_e4: self.limit_e4.ok_or(INCOMPLETE)?,
                ceiling_e4: self.ceiling_e4().ok_or(INCOMPLETE)?,
            },
        })
    }

    /// Ceiling of a sell. The first version bounded the total value of a sell, instead of its
    /// price.
    fn ceiling_e4(&self) -> Option<i64> {
        match (self.side, self.ceiling_e4, self.value_max_e4, self.quantity) {
            (Some(Side::Sell), None, Some(max), Some(quantity @ 1..)) => Some(max / quantity),
            _ => self.ceiling_e4,
        }
    }
}

named_enum! {
    /// Kind of an execution.
    Kind {
        /// Some or all of the order's quantity has traded.
        Fill = 1, "fill";
        /// The remaining quantity is cancelled.
        Done = 2, "done";
        /// The order was not taken into the book.
        Rejected = 3, "rejected";
        /// The order is in the book and has not traded yet.
        Accepted = 4, "accepted";
        /// The order's deadline has come.
        Expired = 5, "expired";
        /// The order's stop has fired.
        Triggered = 6, "triggered";
        /// The order has new terms.
        Replaced = 7, "replaced";
        /// A cancel was refused.
        CancelRefused = 8, "cancel_refused";
        /// A change was refused.
        ReplaceRefused = 9, "replace_refused";
    }
}

/// Prices at which a stop fired.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Trigger {
    /// The price that the market reached, in 10^-4 units.
    pub price_e4: i64,
    /// The worst price at which the order may trade from now on, in 10^-4 units.
    pub limit_e4: i64,
}

/// An outcome of an order in the book. The first outcome of an order also means that the book has
/// taken the order, unless the outcome is a rejection.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum OrderOutcome<'a> {
    /// The order is in the book and has not traded yet.
    Accepted,
    /// Some or all of the order's quantity has traded.
    Fill {
        /// Unique under one topic prefix.
        trade_id: &'a str,
        /// Price of this fill, in 10^-4 units.
        price_e4: i64,
        /// Quantity of this fill.
        quantity: i64,
        /// Maker or taker (FIX 851), or a fill against the house.
        liquidity: Liquidity,
    },
    /// The remaining quantity is cancelled.
    Done(Reason),
    /// The order's deadline has come.
    Expired,
    /// The order was not taken into the book.
    Rejected(Reason),
    /// The order's stop has fired. `None` in old records, which have no prices.
    Triggered(Option<Trigger>),
    /// The order has new terms.
    Replaced {
        /// New quantity, including the traded quantity. An order whose whole quantity has traded is
        /// filled.
        quantity: i64,
        /// New limit, in 10^-4 units.
        limit_e4: i64,
    },
    /// A cancel was refused.
    CancelRefused(Reason),
    /// A change was refused.
    ReplaceRefused(Reason),
}

/// One outcome of one order.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Execution<'a> {
    /// User of the order.
    pub user_id: &'a str,
    pub order_id: &'a str,
    /// Id of the command that caused the outcome; `None` if the order was the cause.
    pub cause_id: Option<&'a str>,
    pub outcome: OrderOutcome<'a>,
}

impl<'a> Execution<'a> {
    /// Appends the execution as MessagePack.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let mut w = MapWriter::begin(out);
        w.text("user_id", self.user_id)
            .text("order_id", self.order_id)
            .maybe_text("cause_id", self.cause_id);
        let (kind, reason) = match self.outcome {
            OrderOutcome::Accepted => (Kind::Accepted, None),
            OrderOutcome::Fill {
                trade_id,
                price_e4,
                quantity,
                liquidity,
            } => {
                w.text("trade_id", trade_id)
                    .int("price_e4", price_e4)
                    .int("quantity", quantity)
                    .text("liquidity", liquidity.name());
                (Kind::Fill, None)
            }
            OrderOutcome::Done(reason) => (Kind::Done, Some(reason)),
            OrderOutcome::Expired => (Kind::Expired, None),
            OrderOutcome::Rejected(reason) => (Kind::Rejected, Some(reason)),
            OrderOutcome::Triggered(trigger) => {
                w.maybe_int("price_e4", trigger.map(|t| t.price_e4))
                    .maybe_int("limit_e4", trigger.map(|t| t.limit_e4));
                (Kind::Triggered, None)
            }
            OrderOutcome::Replaced { quantity, limit_e4 } => {
                w.int("quantity", quantity).int("price_e4", limit_e4);
                (Kind::Replaced, None)
            }
            OrderOutcome::CancelRefused(reason) => (Kind::CancelRefused, Some(reason)),
            OrderOutcome::ReplaceRefused(reason) => (Kind::ReplaceRefused, Some(reason)),
        };

        w.text("kind", kind.name())
            .maybe_text("reason", reason.map(Reason::name));
        w.end();
    }

    /// Decodes an execution that [`Execution::encode`] wrote.
    pub fn decode(bytes: &'a [u8]) -> Result<Self, Fault> {
        let mut user = None;
        let mut order = None;
        let mut kind = None;
        let mut reason = None;
        let mut cause = None;
        let mut trade = None;
        let mut price = None;
        let mut limit = None;
        let mut quantity = None;
        let mut liquidity = None;
        let fault = read_map(bytes, |name, v| match name {
            "user_id" => user = v.plain_text(),
            "order_id" => order = v.plain_text(),
            "cause_id" => cause = v.plain_text(),
            "kind" => kind = named(v, Kind::from_name).flatten(),
            "reason" => reason = named(v, Reason::from_name).flatten(),
            "trade_id" => trade = v.plain_text(),
            "price_e4" => price = v.i64(),
            "limit_e4" => limit = v.i64(),
            "quantity" => quantity = v.i64(),
            "liquidity" => liquidity = named(v, Liquidity::from_name).flatten(),
            _ => {}
        })?;

        const ODD: Fault = "an execution without one of its fields";
        if let Some(fault) = fault {
            return Err(fault);
        }

        let outcome = match kind.ok_or(ODD)? {
            Kind::Accepted => OrderOutcome::Accepted,
            Kind::Fill => OrderOutcome::Fill {
                trade_id: trade.ok_or(ODD)?,
                price_e4: price.ok_or(ODD)?,
                quantity: quantity.ok_or(ODD)?,
                // The first version only had fills against the house.
                liquidity: liquidity.unwrap_or(Liquidity::House),
            },
            Kind::Done => OrderOutcome::Done(reason.ok_or(ODD)?),
            Kind::Expired => OrderOutcome::Expired,
            Kind::Rejected => OrderOutcome::Rejected(reason.ok_or(ODD)?),
            Kind::Triggered => OrderOutcome::Triggered(
                price
                    .zip(limit)
                    .map(|(price_e4, limit_e4)| Trigger { price_e4, limit_e4 }),
            ),
            Kind::Replaced => OrderOutcome::Replaced {
                quantity: quantity.ok_or(ODD)?,
                limit_e4: price.ok_or(ODD)?,
            },
            Kind::CancelRefused => OrderOutcome::CancelRefused(reason.ok_or(ODD)?),
            Kind::ReplaceRefused => OrderOutcome::ReplaceRefused(reason.ok_or(ODD)?),
        };

        Ok(Execution {
            user_id: user.ok_or(ODD)?,
            order_id: order.ok_or(ODD)?,
            cause_id: cause,
            outcome,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn round_trips() {
        let plain = NewOrder {
            side: Side::Buy,
            quantity: 1,
            market: true,
            limit_e4: 2,
            ceiling_e4: i64::MAX,
            stop_e4: None,
            life: Life::Ioc,
            deadline_ms: FOREVER,
            post_only: false,
            reference: Some(Priced {
                price_e4: 4,
                time_ms: -5,
            }),
        };

        let full = NewOrder {
            side: Side::Sell,
            market: false,
            ceiling_e4: 9,
            stop_e4: Some(3),
            deadline_ms: 7,
            post_only: true,
            reference: None,
            ..plain
        };

        let mut out = Vec::new();
        for ask in [
            BookAction::New(plain),
            BookAction::New(full),
            BookAction::Cancel {
                cause_id: "c",
                reason: Reason::MassCancel,
            },
            BookAction::Replace {
                cause_id: "c",
                quantity: 5,
                limit_e4: 6,
                ceiling_e4: 7,
            },
        ] {
            let command = BookCommand {
                user_id: "u",
                order_id: "1",
                symbol: "A",
                ask,
            };

            out.clear();
            command.encode(&mut out);
            assert_eq!(BookCommand::decode(&out), Ok(command));
        }

        for outcome in [
            OrderOutcome::Accepted,
            OrderOutcome::Fill {
                trade_id: "0-1",
                price_e4: 5,
                quantity: 6,
                liquidity: Liquidity::Maker,
            },
            OrderOutcome::Done(Reason::NoLiquidity),
            OrderOutcome::Expired,
            OrderOutcome::Rejected(Reason::StalePrice),
            OrderOutcome::Triggered(None),
            OrderOutcome::Triggered(Some(Trigger {
                price_e4: 5,
                limit_e4: 4,
            })),
            OrderOutcome::Replaced {
                quantity: 5,
                limit_e4: 6,
            },
            OrderOutcome::CancelRefused(Reason::TooLateToCancel),
            OrderOutcome::ReplaceRefused(Reason::PostOnlyWouldCross),
        ] {
            let e = Execution {
                user_id: "u",
                order_id: "1",
                cause_id: Some("c"),
                outcome,
            };

            out.clear();
            e.encode(&mut out);
            assert_eq!(Execution::decode(&out), Ok(e));
        }
    }
}
