//! Trade busts by an operator (FIX ExecType H). A bust changes only the account of the named user,
//! and the house takes the other side. The counterparty keeps the trade until a second bust in the
//! counterparty's account. So each side is decided in the task of its account, and no task waits
//! for another.
//!
//! The command must match the trade as the order keeps it. An order that traded before trades were
//! kept has traded more than its kept trades. For that part the operator's description counts.

use domain::account::{Account, Position, TradeLeg};
use domain::hold::Fee;
use domain::house;
use domain::ids;
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::command::Command;
use wire::event::{Event, OrderEvent};
use wire::topics;
use wire::trade::{TRADE_BUSTED, TradeBusted};

use super::account_tx::{AccountTx, order_event};
use super::decision::{CommandInHand, CommandRefusal, Decision, MarketTables, save_accepted};
use super::order_trades::{Fill, FillPlace};
use super::shorts;
use super::state::{OrderRecord, OrdersBuffers, unreadable};
use crate::ingress::violation;

/// The order and the trade that a bust names.
#[derive(Clone, Copy)]
struct NamedTrade<'a> {
    order_id: &'a str,
    symbol: &'a str,
    entry: OrderRecord<'a>,
    trade_id: &'a str,
}

/// Busts a trade. Refusals: an unknown order, an open order (the id stays free), an unknown trade,
/// or a trade that is already busted in full.
pub(super) fn bust(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
    tables: &mut MarketTables,
) -> Result<Decision, InvariantViolation> {
    let named = match named_trade(tx.ctx, command)? {
        Some(named) if named.entry.is_open() => return Ok(Reason::SystemBusy.into()),
        Some(named) => named,
        None => return Ok(Reason::UnknownOrder.into()),
    };

    let order = (tx.user, named.order_id);
    let fills = named.entry.fills;
    let place = fills.find(tx.ctx, tx.buffers, order, named.trade_id)?;
    let fill = match &place {
        Some(place) => Some(place.fill().ok_or_else(|| unreadable(tx.ctx, "a trade"))?),
        None => None,
    };

    if fill.is_none() && was_busted(tx.ctx, tx.buffers, tx.user, &named) {
        return Ok(Reason::TooLateToCancel.into());
    }

    let keeps_trades = tx.buffers.keeps_trades;
    let described = match &fill {
        Some(fill) => recorded_trade(command.command, &named, fill),
        None if keeps_trades && named.entry.cum == fills.stand => Err(Reason::UnknownTrade.into()),
        None => described_trade(command.command, &named.entry).map_err(Into::into),
    };

    let trade = match described {
        Ok(trade) => trade,
        Err(refusal) => return Ok(refusal.into()),
    };

    let mut ledger = tx.load_ledger(named.symbol)?;
    if let Err(reason) = can_bust(&tx.account, &ledger.position, &trade, keeps_trades) {
        return Ok(reason.into());
    }

    tx.account
        .bust_trade(&mut ledger, &trade)
        .map_err(|e| violation(tx.ctx, e))?;
    tx.save_ledger(named.symbol, &ledger)?;
    if keeps_trades {
        shorts::mark(tx, tables)?;
    }

    let mut kept = Vec::new();
    let entry = record_bust(tx, &named, place.as_ref(), &trade, &mut kept);
    let with_house = fill.is_some_and(|fill| fill.with_house);
    publish(tx, command.command, &named, &entry, &trade, with_house);
    tx.save_order(named.order_id, &entry);
    save_accepted(tx, command);
    Ok(Decision::Accepted)
}

/// The order and the trade that the command names; `None` if there is no such order.
fn named_trade<'a>(
    ctx: &Ctx<'_>,
    command: &CommandInHand<'a>,
) -> Result<Option<NamedTrade<'a>>, InvariantViolation> {
    let c = command.command;
    let (Some(order_id), Some(trade_id)) = (c.orig_order_id.as_deref(), c.trade_id.as_deref())
    else {
        return Err(violation(
            ctx,
            "a bust was decoded without the order or the trade it names",
        ));
    };

    let entry = command
        .named
        .filter(|e| e.status != Status::Rejected && !e.fills.forgotten);
    Ok(entry.and_then(|entry| {
        Some(NamedTrade {
            order_id,
            symbol: entry.content.symbol()?,
            entry,
            trade_id,
        })
    }))
}

/// Records the bust with the trade. Returns the order's record after the bust. `place`: the trade
/// as the order keeps it. `kept` is a buffer for the trades in the record.
fn record_bust<'n>(
    tx: &mut AccountTx<'_, '_>,
    named: &NamedTrade<'n>,
    place: Option<&FillPlace>,
    trade: &TradeLeg,
    kept: &'n mut Vec<u8>,
) -> OrderRecord<'n> {
    let entry = named.entry;
    let order = (tx.user, named.order_id);
    let fills = match place {
        Some(place) => {
            let fills = entry.fills;
            fills.taken_back(tx.ctx, tx.buffers, order, place, trade.quantity, kept)
        }
        None => {
            mark_busted(tx.ctx, tx.buffers, tx.user, named);
            entry.fills
        }
    };

    let mut entry = OrderRecord {
        cum: entry.cum - trade.quantity,
        value_e4: (entry.value_e4 - trade.value_e4).max(0),
        fills,
        ..entry
    };

    // After a bust, CumQty is below the order quantity, and no more trades follow.
    if tx.buffers.keeps_trades && entry.status == Status::Filled {
        (entry.status, entry.reason) = (Status::Cancelled, Some(Reason::Operator));
    }

    entry
}

/// Writes the event for the user, and a record to `trades`.
fn publish(
    tx: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    named: &NamedTrade<'_>,
    entry: &OrderRecord<'_>,
    trade: &TradeLeg,
    with_house: bool,
) {
    let price_e4 = trade.value_e4 / trade.quantity;
    tx.emit(OrderEvent {
        cause_id: Some(&c.order_id),
        trade_id: Some(named.trade_id),
        last_quantity: Some(trade.quantity),
        last_price_e4: Some(price_e4),
        fee_e4: Some(-trade.fee.charged_e4),
        ..order_event(Event::TradeBusted, tx.user, named.order_id, entry)
    });

    if !tx.buffers.keeps_trades {
        return;
    }

    let symbol = named.symbol;
    let house = with_house.then(|| ids::house_account(symbol));
    let own = Some((tx.user, Some(named.order_id)));
    let other = house.as_deref().map(|house| (house, None));
    let (buy, sell) = if trade.side == Side::Buy {
        (own, other)
    } else {
        (other, own)
    };

    tx.buffers.value.clear();
    TradeBusted {
        trade_id: named.trade_id,
        symbol,
        price_e4,
        busted_quantity: trade.quantity,
        buyer: buy.map(|(who, _)| who),
        seller: sell.map(|(who, _)| who),
        buy_order_id: buy.and_then(|(_, order)| order),
        sell_order_id: sell.and_then(|(_, order)| order),
        time_us: tx.ctx.time_ms().saturating_mul(1_000),
    }
    .encode(&mut tx.buffers.value);

    tx.ctx.emit(
        topics::TRADES,
        symbol.as_bytes(),
        TRADE_BUSTED,
        &tx.buffers.value,
    );
}

fn busted_key<'a>(b: &'a mut OrdersBuffers, user: &str, named: &NamedTrade<'_>) -> &'a [u8] {
    b.key(b'b', user, Some(named.order_id));
    b.key.push(0);
    b.key.extend_from_slice(named.trade_id.as_bytes());
    &b.key
}

/// True if a trade that the order does not keep was busted before.
fn was_busted(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    named: &NamedTrade<'_>,
) -> bool {
    ctx.get(busted_key(b, user, named)).is_some()
}

/// Records the bust of a trade that the order does not keep. The value is a version only.
fn mark_busted(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, user: &str, named: &NamedTrade<'_>) {
    let nothing = b.fresh().clone();
    ctx.put(busted_key(b, user, named), &nothing);
}

/// Checks that a bust can be posted. By old rules, the account must still have the shares or cash
/// of the trade.
fn can_bust(
    account: &Account,
    position: &Position,
    trade: &TradeLeg,
    keeps_trades: bool,
) -> Result<(), Reason> {
    match keeps_trades {
        false => account.still_has(position, trade),
        true if account.can_take_back(position, trade) => Ok(()),
        true => Err(Reason::NotionalLimit),
    }
}

/// Returns the busted part, if the command matches the kept trade.
fn recorded_trade(
    c: &Command<'_>,
    named: &NamedTrade<'_>,
    fill: &Fill<'_>,
) -> Result<TradeLeg, CommandRefusal> {
    let side = named.entry.content.side().ok_or(Reason::UnknownOrder)?;
    let left = fill.stands();
    if left == 0 {
        return Err(Reason::TooLateToCancel.into());
    }

    let quantity = c
        .quantity
        .and_then(|q| q.positive())
        .filter(|q| *q <= left)
        .ok_or(Reason::IncorrectQuantity)?;
    let price_e4 = c
        .price
        .and_then(|p| p.positive())
        .ok_or(Reason::InvalidAmount)?;
    let fee = fill.fee_of(quantity);

    // Without a fee in the command, return the due part of the fee.
    let fee_e4 = c
        .fee
        .map_or(Some(fee.charged_e4), |fee| fee.not_negative())
        .ok_or(Reason::InvalidAmount)?;
    let fields = [
        (
            "symbol",
            c.symbol.as_deref().is_none_or(|is| is == named.symbol),
        ),
        ("order_type", c.side.is_none_or(|is| is == side)),
        ("price", price_e4 == fill.price_e4),
        ("fee", fee_e4 == fee.charged_e4),
    ];

    if let Some((field, _)) = fields.iter().find(|(_, fits)| !fits) {
        return Err(CommandRefusal::of_field(Reason::TradeMismatch, field));
    }

    let value_e4 = house::value(quantity, price_e4).ok_or(Reason::InvalidAmount)?;
    Ok(TradeLeg {
        side,
        quantity,
        value_e4,
        fee,
        with_house: true,
        keeps: false,
    })
}

/// Bust by the operator's description, for a trade that the order does not keep.
fn described_trade(c: &Command<'_>, entry: &OrderRecord<'_>) -> Result<TradeLeg, Reason> {
    let side = entry.content.side().ok_or(Reason::UnknownOrder)?;
    let most = entry.cum - entry.fills.stand;
    let quantity = c
        .quantity
        .and_then(|q| q.positive())
        .filter(|q| *q <= most)
        .ok_or(Reason::IncorrectQuantity)?;
    let value_e4 = c
        .price
        .and_then(|p| p.positive())
        .and_then(|price| house::value(quantity, price))
        .ok_or(Reason::InvalidAmount)?;
    let charged_e4 = match c.fee {
        None => 0,
        Some(fee) => fee
            .not_negative()
            .filter(|fee| *fee <= value_e4)
            .ok_or(Reason::InvalidAmount)?,
    };

    // The rounding surplus over the exact fee stays where it was posted. The next fee is not known
    // to belong to the same trade.
    Ok(TradeLeg {
        side,
        quantity,
        value_e4,
        fee: Fee {
            charged_e4,
            exact_e4: charged_e4,
        },
        with_house: true,
        keeps: false,
    })
}
