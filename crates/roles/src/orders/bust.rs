//! Trade busts by an operator (FIX ExecType H). A bust changes only the account of the named user,
//! and the house takes the other side. The counterparty keeps the trade until a second bust in the
//! counterparty's account. So each side is decided in the task of its account, and no task waits
//! for another.
//!
//! The command must match the trade as the order keeps it. An order that traded before trades were
//! kept has traded more than its kept trades. For that part the operator's description counts.

use domain::account::{Account, LedgerParts, Position, TradeLeg};
use domain::hold::Fee;
use domain::house;
use domain::ids;
use domain::instrument::Instrument;
use domain::reason::Reason;
use domain::status::{Side, Status};
use engine::context::Ctx;
use engine::role::InvariantViolation;
use wire::command::Command;
use wire::command_fingerprint::CommandFingerprint;
use wire::event::{Event, OrderEvent};
use wire::topics;
use wire::trade::{TRADE_BUSTED, TradeBusted};

use super::account_tx::{AccountTx, about};
use super::cancel_replace::sent;
use super::commands::CommandRefusal;
use super::order_trades::Fill;
use super::shorts;
use super::state::{self, OrderRecord, OrdersBuffers, unreadable};
use crate::decoded_table::DecodedTable;
use crate::ingress::bug;

/// Tables for revaluing a position that owes shares after a bust.
pub(super) struct BustMarks<'r> {
    pub instruments: &'r mut DecodedTable<Instrument>,
    pub references: &'r mut DecodedTable<(i64, i64)>,
}

/// Busts a trade. Refusals: an unknown order, an open order (the id stays free), an unknown trade,
/// or a trade that is already busted in full.
pub(super) fn trade(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    named: Option<OrderRecord<'_>>,
    marks: BustMarks<'_>,
) -> Result<Result<(), CommandRefusal>, InvariantViolation> {
    let (Some(order_id), Some(trade_id)) = (c.orig_order_id.as_deref(), c.trade_id.as_deref())
    else {
        return Err(bug(
            desk.ctx,
            "a bust was decoded without the order or the trade it names",
        ));
    };

    let Some((entry, symbol)) = named
        .and_then(|e| Some((e, e.content.symbol()?)))
        .filter(|(e, _)| e.status != Status::Rejected && !e.fills.forgotten)
    else {
        return Ok(Err(Reason::UnknownOrder.into()));
    };

    if entry.is_open() {
        return Ok(Err(Reason::SystemBusy.into()));
    }

    let order = (desk.user, order_id);
    let found = entry.fills.find(desk.ctx, desk.buffers, order, trade_id)?;
    let fill = match &found {
        Some(found) => Some(
            found
                .fill()
                .ok_or_else(|| unreadable(desk.ctx, "a trade"))?,
        ),
        None => None,
    };

    let by_word = fill.is_none();
    if by_word && was_busted(desk.ctx, desk.buffers, desk.user, order_id, trade_id) {
        return Ok(Err(Reason::TooLateToCancel.into()));
    }

    let described = match fill {
        Some(fill) => as_it_was(c, &entry, symbol, &fill),
        None if desk.buffers.keeps_trades && entry.cum == entry.fills.stand => {
            Err(Reason::UnknownTrade.into())
        }
        None => by_the_operators_word(c, &entry).map_err(CommandRefusal::from),
    };

    let trade = match described {
        Ok(trade) => trade,
        Err(refusal) => return Ok(Err(refusal)),
    };

    let mut position = desk.position(symbol)?;
    if let Err(reason) = may(&desk.account, &position, &trade, desk.buffers.keeps_trades) {
        return Ok(Err(reason.into()));
    }

    let mut house = state::load_house(desk.ctx, desk.buffers, symbol)?;
    desk.post(|account, totals| {
        account.bust_trade(
            LedgerParts {
                position: &mut position,
                house: &mut house,
                totals,
            },
            &trade,
        )
    })?;

    desk.save_position(symbol, &position)?;
    state::save_house(desk.ctx, desk.buffers, symbol, &house);
    if desk.buffers.keeps_trades {
        shorts::mark(desk, marks.instruments, marks.references)?;
    }

    let mut kept = Vec::new();
    let fills = match &found {
        Some(found) => entry.fills.taken_back(
            desk.ctx,
            desk.buffers,
            order,
            found,
            trade.quantity,
            &mut kept,
        ),
        None => entry.fills,
    };

    if by_word {
        mark_busted(desk.ctx, desk.buffers, desk.user, order_id, trade_id);
    }

    let mut entry = OrderRecord {
        cum: entry.cum - trade.quantity,
        value_e4: (entry.value_e4 - trade.value_e4).max(0),
        fills,
        ..entry
    };

    // After a bust, CumQty is below the order quantity, and no more trades follow.
    if desk.buffers.keeps_trades && entry.status == Status::Filled {
        (entry.status, entry.reason) = (Status::Cancelled, Some(Reason::Operator));
    }

    told(
        desk,
        c,
        (order_id, symbol),
        &entry,
        &trade,
        fill.is_some_and(|fill| fill.with_house),
    );

    desk.note(order_id, &entry);
    sent(desk, c, content);
    Ok(Ok(()))
}

/// Writes the event for the user, and a record to `trades`.
fn told(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    (order_id, symbol): (&str, &str),
    entry: &OrderRecord<'_>,
    trade: &TradeLeg,
    with_house: bool,
) {
    let user = desk.user;
    let price_e4 = trade.value_e4 / trade.quantity;
    desk.event(OrderEvent {
        cause_id: Some(&c.order_id),
        trade_id: c.trade_id.as_deref(),
        last_quantity: Some(trade.quantity),
        last_price_e4: Some(price_e4),
        fee_e4: Some(-trade.fee.charged_e4),
        ..about(Event::TradeBusted, user, order_id, entry)
    });

    if !desk.buffers.keeps_trades {
        return;
    }

    let house = with_house.then(|| ids::house_account(symbol));
    let own = Some((user, Some(order_id)));
    let other = house.as_deref().map(|house| (house, None));
    let (buy, sell) = if trade.side == Side::Buy {
        (own, other)
    } else {
        (other, own)
    };

    desk.buffers.value.clear();
    TradeBusted {
        trade_id: c.trade_id.as_deref().unwrap_or_default(),
        symbol,
        price_e4,
        busted_quantity: trade.quantity,
        buyer: buy.map(|(who, _)| who),
        seller: sell.map(|(who, _)| who),
        buy_order_id: buy.and_then(|(_, order)| order),
        sell_order_id: sell.and_then(|(_, order)| order),
        time_us: desk.ctx.time_ms().saturating_mul(1_000),
    }
    .encode(&mut desk.buffers.value);

    desk.ctx.emit(
        topics::TRADES,
        symbol.as_bytes(),
        TRADE_BUSTED,
        &desk.buffers.value,
    );
}

fn busted_key<'a>(
    b: &'a mut OrdersBuffers,
    user: &str,
    order_id: &str,
    trade_id: &str,
) -> &'a [u8] {
    b.key(b'b', user, Some(order_id));
    b.key.push(0);
    b.key.extend_from_slice(trade_id.as_bytes());
    &b.key
}

/// True if a trade that the order does not keep was busted before.
fn was_busted(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    order_id: &str,
    trade_id: &str,
) -> bool {
    ctx.get(busted_key(b, user, order_id, trade_id)).is_some()
}

/// Records the bust of a trade that the order does not keep. The value is a version only.
fn mark_busted(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    user: &str,
    order_id: &str,
    trade_id: &str,
) {
    let nothing = b.fresh().clone();
    ctx.put(busted_key(b, user, order_id, trade_id), &nothing);
}

/// Text of a reason, if a bust needs another text than other commands.
pub(super) fn text(reason: Reason) -> Option<&'static str> {
    Some(match reason {
        Reason::UnknownOrder => "there is no such order",
        Reason::SystemBusy => "the order may still trade; cancel it first",
        Reason::TooLateToCancel => "the trade was taken back before",
        Reason::IncorrectQuantity => {
            "so many of it have not been traded, or were taken back before"
        }
        Reason::InvalidAmount => "no trade has such a price or such a fee",
        Reason::ShortSellNotPermitted => {
            "the shares are not there any more, or are promised to other orders"
        }
        Reason::InsufficientFunds => {
            "the money is not there any more, or is promised to other orders"
        }
        _ => return None,
    })
}

/// Checks that a bust can be posted.
fn may(
    account: &Account,
    position: &Position,
    trade: &TradeLeg,
    whatever_is_there: bool,
) -> Result<(), Reason> {
    match whatever_is_there {
        false => account.still_has(position, trade),
        true if account.can_take_back(position, trade) => Ok(()),
        true => Err(Reason::NotionalLimit),
    }
}

/// Returns the busted part, if the command matches the kept trade.
fn as_it_was(
    c: &Command<'_>,
    entry: &OrderRecord<'_>,
    symbol: &str,
    fill: &Fill<'_>,
) -> Result<TradeLeg, CommandRefusal> {
    let side = entry.content.side().ok_or(Reason::UnknownOrder)?;
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
            c.symbol.as_deref().is_none_or(|named| named == symbol),
        ),
        ("order_type", c.side.is_none_or(|named| named == side)),
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
fn by_the_operators_word(c: &Command<'_>, entry: &OrderRecord<'_>) -> Result<TradeLeg, Reason> {
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
