//! `executions`: what the book did is booked. Settlement never refuses; if it cannot be booked, the system is wrong and stops.

use crate::domain::account::Books;
use crate::domain::house;
use crate::domain::reason::Reason;
use crate::domain::status::{Liquidity, Side, Status};
use crate::engine::context::Ctx;
use crate::engine::records::Record;
use crate::engine::role::Bug;
use crate::roles::intake::{bug, own};
use crate::wire::book::{Execution, Outcome};
use crate::wire::event::{Event, OrderEvent};

use super::Orders;
use super::desk::{Desk, about};
use super::state::{self, Entry, unreadable};

/// The order that is settled.
struct Open<'a> {
    id: &'a str,
    symbol: &'a str,
    side: Side,
    quantity: i64,
    entry: Entry<'a>,
}

impl Orders {
    pub(super) fn execution(&mut self, ctx: &mut Ctx<'_>, record: &Record<'_>) -> Result<(), Bug> {
        let value = own(ctx, record)?;
        let x = Execution::decode(value).map_err(|fault| bug(ctx, fault))?;
        if !state::load_order(ctx, &mut self.buffers, x.user_id, x.order_id, &mut self.entry) {
            return Err(bug(ctx, format_args!("an execution of order {} of user {}, which is not known", x.order_id, x.user_id)));
        }
        let entry = Entry::read(&self.entry).ok_or_else(|| unreadable(ctx, "an order"))?;
        let (Status::PendingNew, Some(symbol), Some(side), Some(quantity)) =
            (entry.status, entry.content.symbol(), entry.content.side(), entry.content.quantity())
        else {
            return Err(bug(ctx, format_args!("an execution of order {} of user {}, which is not open", x.order_id, x.user_id)));
        };
        let open = Open { id: x.order_id, symbol, side, quantity, entry };
        let mut desk = Desk::existing(ctx, &mut self.buffers, x.user_id)?;
        match x.outcome {
            Outcome::Fill { trade_id, price_e4, quantity } => fill(&mut desk, &open, trade_id, price_e4, quantity)?,
            Outcome::Done(reason) => {
                accepted(&mut desk, &open);
                release(&mut desk, &open)?;
                ended(&mut desk, &open, Event::OrderCancelled, Status::Cancelled, reason);
            }
            Outcome::Rejected(reason) => {
                release(&mut desk, &open)?;
                ended(&mut desk, &open, Event::OrderRejected, Status::Rejected, reason);
            }
        }
        desk.close();
        Ok(())
    }
}

fn accepted(desk: &mut Desk<'_, '_>, open: &Open<'_>) {
    let user = desk.user;
    desk.event(about(Event::OrderAccepted, user, open.id, &Entry { status: Status::New, ..open.entry }));
}

fn fill(desk: &mut Desk<'_, '_>, open: &Open<'_>, trade_id: &str, price_e4: i64, quantity: i64) -> Result<(), Bug> {
    let Some(value) = house::value(quantity, price_e4).filter(|_| quantity == open.quantity) else {
        return Err(bug(desk.ctx, "a fill by the house that is not the whole order"));
    };
    accepted(desk, open);
    let mut position = state::load_position(desk.ctx, desk.buffers, desk.user, open.symbol)?;
    let mut house = state::load_house(desk.ctx, desk.buffers, open.symbol)?;
    let hold = open.entry.hold_e4;
    desk.post(|account, totals| {
        let books = Books { position: &mut position, house: &mut house, totals };
        match open.side {
            Side::Buy => account.buy_from_house(books, quantity, value, hold),
            Side::Sell => account.sell_to_house(books, quantity, value, hold),
        }
    })?;
    state::save_position(desk.ctx, desk.buffers, desk.user, open.symbol, &position);
    state::save_house(desk.ctx, desk.buffers, open.symbol, &house);
    let entry = Entry { status: Status::Filled, cum: quantity, hold_e4: 0, ..open.entry };
    let user = desk.user;
    desk.event(OrderEvent {
        trade_id: Some(trade_id),
        last_quantity: Some(quantity),
        last_price_e4: Some(price_e4),
        fee_e4: Some(0),
        liquidity: Some(Liquidity::House),
        ..about(Event::OrderFilled, user, open.id, &entry)
    });
    desk.note(open.id, &entry);
    Ok(())
}

fn release(desk: &mut Desk<'_, '_>, open: &Open<'_>) -> Result<(), Bug> {
    let hold = open.entry.hold_e4;
    let released = match open.side {
        Side::Buy => desk.account.release_buy(hold),
        Side::Sell => {
            let mut position = state::load_position(desk.ctx, desk.buffers, desk.user, open.symbol)?;
            let released = desk.account.release_sell(&mut position, open.quantity, hold);
            state::save_position(desk.ctx, desk.buffers, desk.user, open.symbol, &position);
            released
        }
    };
    released.map_err(|e| bug(desk.ctx, e))
}

fn ended(desk: &mut Desk<'_, '_>, open: &Open<'_>, event: Event, status: Status, reason: Reason) {
    let entry = Entry { status, reason: Some(reason), hold_e4: 0, ..open.entry };
    let user = desk.user;
    desk.event(OrderEvent { reason: Some(reason), text: Some(reason.text()), ..about(event, user, open.id, &entry) });
    desk.note(open.id, &entry);
}
