//! `order-commands` and `operator-commands`: decodes bytes to a typed command.

use std::borrow::Cow;

use domain::book::Life;
use domain::checks::Pricing;
use domain::decimal::{MONEY, Num, WHOLE};
use domain::ids;
use domain::named_enum;
use domain::reason::Reason;
use domain::status::Side;
use ports::topics::TopicId;

use super::command_fingerprint::mark_of;
use super::input::{Fault, FieldValue, read_map, timestamp_ns};
use super::protections::{self, Protection};
use super::topics;

named_enum! {
    /// Kind of a command.
    Kind {
        /// A new order.
        New = 1, "new";
        /// Cancel one order.
        Cancel = 2, "cancel";
        /// Cancel/replace: change one order.
        Replace = 3, "replace";
        /// Mass cancel (FIX q): cancel all orders of a user, or all of one symbol.
        MassCancel = 4, "mass_cancel";
        Deposit = 5, "deposit";
        Withdraw = 6, "withdraw";
        /// An operator takes a trade back (FIX ExecType H).
        Bust = 7, "bust";
    }
}

named_enum! {
    /// Order type (FIX 40).
    OrderType {
        /// Trades at once, at the current price.
        Market = 1, "market";
        /// Trades at its limit price or better.
        Limit = 2, "limit";
        /// Becomes a market order at its stop price.
        Stop = 3, "stop";
        /// Becomes a limit order at its stop price.
        StopLimit = 4, "stop_limit";
    }
}

named_enum! {
    /// Time in force (FIX 59).
    TimeInForce {
        /// Good till cancel.
        Gtc = 1, "GTC";
        /// Until the end of the day.
        Day = 2, "DAY";
        /// Immediate or cancel: the quantity that does not trade at once is cancelled.
        Ioc = 3, "IOC";
        /// Fill or kill: all of the quantity trades at once, or none.
        Fok = 4, "FOK";
        /// Good till date: until `expire_at`.
        Gtd = 5, "GTD";
    }
}

/// A word of a list, or an unknown word. An unknown word is not a malformed command, only a choice
/// that is not supported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Choice<T> {
    /// A word of the list.
    Known(T),
    /// An unknown word. The mark distinguishes unknown words from each other.
    Unknown([u8; 16]),
}

/// A command. An optional field is `None` if the command's kind does not need the field.
#[derive(Clone, Debug, PartialEq)]
pub struct Command<'a> {
    pub kind: Kind,
    /// User whose account or order the command is about.
    pub user_id: Cow<'a, str>,
    /// Id of the command (FIX 11, ClOrdID).
    pub order_id: Cow<'a, str>,
    /// Time claimed by the client, in nanoseconds since 1970.
    pub timestamp_ns: Option<i128>,
    pub symbol: Option<Cow<'a, str>>,
    /// Order quantity, or the quantity of a bust.
    pub quantity: Option<Num>,
    /// Buy or sell (`order_type` in the contract).
    pub side: Option<Side>,
    /// Order type (`type` in the contract); the default is market.
    pub order_type: Choice<OrderType>,
    pub limit_price: Option<Num>,
    /// Price at which a stop order fires.
    pub stop_price: Option<Num>,
    /// Time in force; the default depends on the order type.
    pub tif: Choice<TimeInForce>,
    /// Deadline, in nanoseconds since 1970.
    pub expire_at_ns: Option<i128>,
    /// The order must not trade on arrival.
    pub post_only: bool,
    /// Id of the order that a cancel, replace or bust is about (FIX 41, OrigClOrdID).
    pub orig_order_id: Option<Cow<'a, str>>,
    /// Amount of a deposit or withdrawal.
    pub amount: Option<Num>,
    /// The operator who sends the command for a user. In a transfer the operator is only for the
    /// record: the same amount under the same id is the same transfer.
    pub operator: Option<Cow<'a, str>>,
    /// The trade that a bust takes back.
    pub trade_id: Option<Cow<'a, str>>,
    /// Price of that trade.
    pub price: Option<Num>,
    /// Fee of that trade.
    pub fee: Option<Num>,
    /// Name of a field that asks for a protection which is not served (see [`protections`]).
    pub unlike: Option<Cow<'a, str>>,
}

/// The topic that a command belongs to. A command that moves money, busts a trade or names an
/// operator belongs to the operators' topic. A malformed command belongs to the clients' topic.
pub fn topic(bytes: &[u8]) -> TopicId {
    match decode(bytes) {
        Ok(c)
            if c.operator.is_some()
                || matches!(c.kind, Kind::Deposit | Kind::Withdraw | Kind::Bust) =>
        {
            topics::OPERATOR_COMMANDS
        }
        _ => topics::ORDER_COMMANDS,
    }
}

/// End of an order's life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Until {
    /// No deadline: a fill or a cancel ends the order.
    Ended,
    /// The end of the day on which the order came.
    DayEnd,
    /// A deadline, in nanoseconds since 1970.
    Time(i128),
}

/// A new order with a valid combination of fields.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ValidatedOrder {
    /// Order type with its prices.
    pub pricing: Pricing,
    /// Handling of the quantity that does not trade at once.
    pub life: Life,
    /// Deadline of the order.
    pub until: Until,
}

impl Command<'_> {
    /// The sentence for people that explains a reason. Names the field that is not served, if any.
    pub fn text(&self, reason: Reason) -> Cow<'static, str> {
        match &self.unlike {
            Some(field) if reason == Reason::UnsupportedCharacteristic => {
                format!("the field {field} is not one that is served here").into()
            }
            _ => reason.text().into(),
        }
    }

    /// The order, if its combination of fields is valid.
    pub fn served(&self) -> Option<ValidatedOrder> {
        let (Choice::Known(kind), Choice::Known(tif)) = (self.order_type, self.tif) else {
            return None;
        };

        let pricing = match (kind, self.limit_price, self.stop_price) {
            (OrderType::Market, None, None) => Pricing::Market,
            (OrderType::Limit, Some(limit), None) => Pricing::Limit(limit),
            (OrderType::Stop, None, Some(stop)) => Pricing::Stop(stop),
            (OrderType::StopLimit, Some(limit), Some(stop)) => Pricing::StopLimit { stop, limit },
            _ => return None,
        };

        let until = match (tif, self.expire_at_ns) {
            (TimeInForce::Gtd, Some(time)) => Until::Time(time),
            (TimeInForce::Gtd, None) | (_, Some(_)) => return None,
            (TimeInForce::Day, None) => Until::DayEnd,
            _ => Until::Ended,
        };

        let passing = matches!(tif, TimeInForce::Ioc | TimeInForce::Fok);
        if (kind == OrderType::Market && !passing)
            || (self.post_only && (kind != OrderType::Limit || passing))
        {
            return None;
        }

        let life = match tif {
            TimeInForce::Fok => Life::Fok,
            TimeInForce::Ioc => Life::Ioc,
            // A stop that has fired is a market order, so its rest is cancelled even with GTC, DAY
            // or GTD.
            _ if kind == OrderType::Stop => Life::Ioc,
            _ => Life::Rest,
        };

        Some(ValidatedOrder {
            pricing,
            life,
            until,
        })
    }
}

impl ValidatedOrder {
    /// Reports that the order may stay in the book for a while, resting or waiting for its stop.
    pub fn stays(&self) -> bool {
        self.life == Life::Rest
            || matches!(self.pricing, Pricing::Stop(_) | Pricing::StopLimit { .. })
    }
}

/// A malformed command, with the fields that could be read.
#[derive(Clone, Debug, PartialEq)]
pub struct Malformed<'a> {
    /// The error, for people.
    pub text: Fault,
    /// The user, if valid.
    pub user_id: Option<Cow<'a, str>>,
    /// The command's id, if valid.
    pub order_id: Option<Cow<'a, str>>,
    /// The symbol, if valid.
    pub symbol: Option<Cow<'a, str>>,
    /// The quantity, if the value is a number that can be shown.
    pub quantity: Option<i64>,
    /// Buy or sell, if valid.
    pub side: Option<Side>,
}

#[derive(Default)]
struct Raw<'a> {
    command: Option<FieldValue<'a>>,
    user_id: Option<FieldValue<'a>>,
    order_id: Option<FieldValue<'a>>,
    timestamp: Option<FieldValue<'a>>,
    symbol: Option<FieldValue<'a>>,
    quantity: Option<FieldValue<'a>>,
    side: Option<FieldValue<'a>>,
    order_type: Option<FieldValue<'a>>,
    limit_price: Option<FieldValue<'a>>,
    stop_price: Option<FieldValue<'a>>,
    tif: Option<FieldValue<'a>>,
    expire_at: Option<FieldValue<'a>>,
    post_only: Option<FieldValue<'a>>,
    orig_order_id: Option<FieldValue<'a>>,
    amount: Option<FieldValue<'a>>,
    operator: Option<FieldValue<'a>>,
    trade_id: Option<FieldValue<'a>>,
    price: Option<FieldValue<'a>>,
    fee: Option<FieldValue<'a>>,
    /// The first field that asks for a trial, and the first field that asks for another protection.
    /// The index is the [`Protection`].
    unlike: [Option<String>; 2],
}

/// Decodes a command from a record's value.
pub fn decode(bytes: &[u8]) -> Result<Command<'_>, Malformed<'_>> {
    let mut raw = Raw::default();
    let read = read_map(bytes, |name, value| {
        let slot = match name {
            "command" => &mut raw.command,
            "user_id" => &mut raw.user_id,
            "order_id" => &mut raw.order_id,
            "timestamp" => &mut raw.timestamp,
            "symbol" => &mut raw.symbol,
            "quantity" => &mut raw.quantity,
            "order_type" => &mut raw.side,
            "type" => &mut raw.order_type,
            "limit_price" => &mut raw.limit_price,
            "stop_price" => &mut raw.stop_price,
            "tif" => &mut raw.tif,
            "expire_at" => &mut raw.expire_at,
            "post_only" => &mut raw.post_only,
            "orig_order_id" => &mut raw.orig_order_id,
            "amount" => &mut raw.amount,
            "operator" => &mut raw.operator,
            "trade_id" => &mut raw.trade_id,
            "price" => &mut raw.price,
            "fee" => &mut raw.fee,
            _ => {
                if raw.unlike.iter().any(Option::is_none)
                    && let Some(protection) = protections::asked(name, &value)
                {
                    raw.unlike[protection as usize].get_or_insert_with(|| name.to_string());
                }

                return;
            }
        };

        *slot = Some(value).filter(|v| *v != FieldValue::Null);
    });

    match read {
        Err(text) => Err(Malformed {
            text,
            user_id: None,
            order_id: None,
            symbol: None,
            quantity: None,
            side: None,
        }),
        Ok(Some(text)) => Err(raw.remains(text)),
        Ok(None) => raw.command().map_err(|text| raw.remains(text)),
    }
}

impl<'a> Raw<'a> {
    fn remains(&self, text: Fault) -> Malformed<'a> {
        let id = |v: &Option<FieldValue<'a>>, valid: fn(&str) -> bool| {
            v.clone().and_then(FieldValue::text).filter(|t| valid(t))
        };

        Malformed {
            text,
            user_id: id(&self.user_id, ids::valid_user),
            order_id: id(&self.order_id, ids::valid),
            symbol: id(&self.symbol, ids::valid),
            quantity: self
                .quantity
                .as_ref()
                .and_then(|v| v.num(WHOLE))
                .and_then(Num::shown),
            side: self
                .side
                .clone()
                .and_then(FieldValue::text)
                .and_then(|t| Side::from_name(&t)),
        }
    }

    fn command(&self) -> Result<Command<'a>, Fault> {
        let user_id = id(&self.user_id, "user_id is missing or not text")?;
        if !ids::valid_user(&user_id) {
            return Err(
                "user_id is not a valid id (1 to 64 printable ASCII characters without blank and '/', not a system account)",
            );
        }

        let order_id = valid(id(&self.order_id, "order_id is missing or not text")?)?;
        let kind = match word(&self.command, "command is not text")? {
            None => Kind::New,
            Some(t) => Kind::from_name(&t).ok_or("command is unknown")?,
        };

        let timestamp_ns = time(&self.timestamp, "timestamp is not a whole number")?;
        let mut c = Command {
            kind,
            user_id,
            order_id,
            timestamp_ns,
            symbol: None,
            quantity: None,
            side: None,
            order_type: Choice::Known(OrderType::Market),
            limit_price: None,
            stop_price: None,
            tif: Choice::Known(TimeInForce::Ioc),
            expire_at_ns: None,
            post_only: false,
            orig_order_id: None,
            amount: None,
            operator: None,
            trade_id: None,
            price: None,
            fee: None,
            unlike: None,
        };

        match kind {
            Kind::New => self.order(&mut c)?,
            Kind::Cancel => {
                c.orig_order_id = Some(self.orig()?);
                c.operator = self.operator()?;
            }
            Kind::Replace => {
                c.orig_order_id = Some(self.orig()?);
                c.quantity = number(&self.quantity, WHOLE, "quantity is not a number")?;
                c.limit_price = number(&self.limit_price, MONEY, "limit_price is not a number")?;
            }
            Kind::MassCancel => {
                c.symbol = self.symbol.is_some().then(|| self.symbol()).transpose()?;
                c.operator = self.operator()?;
            }
            Kind::Bust => self.bust(&mut c)?,
            Kind::Deposit | Kind::Withdraw => {
                c.operator = self.operator()?;
                c.amount = Some(
                    number(&self.amount, MONEY, "amount is not a number")?
                        .ok_or("amount is missing")?,
                );
            }
        }

        c.unlike = self.unlike(&c);
        Ok(c)
    }

    /// The name of a field that asks for a protection that this kind does not serve. Protections
    /// count for orders and replaces. Trials also count for deposits and withdrawals. Our own
    /// fields count, too, if commands of this kind do not use the field.
    fn unlike(&self, c: &Command<'a>) -> Option<Cow<'a, str>> {
        let kind = c.kind;
        let orders = matches!(kind, Kind::New | Kind::Replace);
        let fields = [
            ("stop_price", &self.stop_price),
            ("tif", &self.tif),
            ("expire_at", &self.expire_at),
            ("post_only", &self.post_only),
        ];
        let of_others = |(name, v): &(&'static str, &Option<FieldValue<'a>>)| {
            v.as_ref()
                .is_some_and(|v| *v != FieldValue::Bool(false))
                .then_some(*name)
        };

        let ours = match kind {
            // These fields are for the operator's safety. A value that cannot be read matches no
            // trade.
            Kind::Bust if self.symbol.is_some() && c.symbol.is_none() => Some("symbol"),
            Kind::Bust if self.side.is_some() && c.side.is_none() => Some("order_type"),
            Kind::New => of_others(&("price", &self.price)),
            Kind::Replace => {
                of_others(&("price", &self.price)).or_else(|| fields.iter().find_map(of_others))
            }
            _ => None,
        };

        let moves = orders || matches!(kind, Kind::Deposit | Kind::Withdraw);
        let other =
            |p: Protection, counts: bool| self.unlike[p as usize].clone().filter(|_| counts);
        let others =
            || other(Protection::Order, orders).or_else(|| other(Protection::Trial, moves));
        ours.map(Cow::Borrowed).or_else(|| others().map(Cow::Owned))
    }

    fn symbol(&self) -> Result<Cow<'a, str>, Fault> {
        valid(id(&self.symbol, "symbol is missing or not text")?)
    }

    fn orig(&self) -> Result<Cow<'a, str>, Fault> {
        valid(id(
            &self.orig_order_id,
            "orig_order_id is missing or not text",
        )?)
    }

    fn operator(&self) -> Result<Option<Cow<'a, str>>, Fault> {
        self.operator
            .is_some()
            .then(|| valid(id(&self.operator, "operator is not text")?))
            .transpose()
    }

    fn bust(&self, c: &mut Command<'a>) -> Result<(), Fault> {
        c.operator = Some(self.operator()?.ok_or("operator is missing")?);
        c.orig_order_id = Some(self.orig()?);
        c.trade_id = Some(valid(id(
            &self.trade_id,
            "trade_id is missing or not text",
        )?)?);
        c.quantity = Some(
            number(&self.quantity, WHOLE, "quantity is not a number")?
                .ok_or("quantity is missing")?,
        );
        c.price =
            Some(number(&self.price, MONEY, "price is not a number")?.ok_or("price is missing")?);
        c.fee = number(&self.fee, MONEY, "fee is not a number")?;
        c.symbol = id(&self.symbol, "")
            .ok()
            .filter(|symbol| ids::valid(symbol));
        c.side = word(&self.side, "")
            .ok()
            .flatten()
            .and_then(|side| Side::from_name(&side));
        Ok(())
    }

    fn order(&self, c: &mut Command<'a>) -> Result<(), Fault> {
        c.symbol = Some(self.symbol()?);
        c.quantity = Some(
            number(&self.quantity, WHOLE, "quantity is not a number")?
                .ok_or("quantity is missing")?,
        );
        let side = word(&self.side, "order_type is not text")?.ok_or("order_type is missing")?;
        c.side = Some(Side::from_name(&side).ok_or("order_type is neither buy nor sell")?);
        if let Some(t) = word(&self.order_type, "type is not text")? {
            c.order_type = OrderType::from_name(&t)
                .map_or_else(|| Choice::Unknown(mark_of(&t)), Choice::Known);
        }

        c.limit_price = number(&self.limit_price, MONEY, "limit_price is not a number")?;
        c.stop_price = number(&self.stop_price, MONEY, "stop_price is not a number")?;
        c.tif = match word(&self.tif, "tif is not text")? {
            Some(t) => TimeInForce::from_name(&t)
                .map_or_else(|| Choice::Unknown(mark_of(&t)), Choice::Known),
            None if matches!(
                c.order_type,
                Choice::Known(OrderType::Market | OrderType::Stop)
            ) =>
            {
                Choice::Known(TimeInForce::Ioc)
            }
            None => Choice::Known(TimeInForce::Gtc),
        };

        c.expire_at_ns = time(&self.expire_at, "expire_at is not a whole number")?;
        c.post_only = match &self.post_only {
            None => false,
            Some(FieldValue::Bool(b)) => *b,
            Some(_) => return Err("post_only is neither true nor false"),
        };

        Ok(())
    }
}

fn id<'a>(v: &Option<FieldValue<'a>>, otherwise: Fault) -> Result<Cow<'a, str>, Fault> {
    match v {
        Some(FieldValue::Text(t)) => Ok(t.clone()),
        _ => Err(otherwise),
    }
}

fn valid(id: Cow<'_, str>) -> Result<Cow<'_, str>, Fault> {
    if ids::valid(&id) {
        Ok(id)
    } else {
        Err("an id is not 1 to 64 printable ASCII characters without blank and '/'")
    }
}

fn word<'a>(v: &Option<FieldValue<'a>>, otherwise: Fault) -> Result<Option<Cow<'a, str>>, Fault> {
    match v {
        None => Ok(None),
        Some(FieldValue::Text(t)) => Ok(Some(t.clone())),
        Some(_) => Err(otherwise),
    }
}

fn number(v: &Option<FieldValue<'_>>, scale: u32, otherwise: Fault) -> Result<Option<Num>, Fault> {
    v.as_ref()
        .map(|v| v.num(scale).ok_or(otherwise))
        .transpose()
}

fn time(v: &Option<FieldValue<'_>>, otherwise: Fault) -> Result<Option<i128>, Fault> {
    v.as_ref()
        .map(|v| v.integer().map(timestamp_ns).ok_or(otherwise))
        .transpose()
}
