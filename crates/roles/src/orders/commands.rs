//! `order-commands` and `operator-commands`: the checks of a command in their fixed order, and the
//! effects of an accepted command.

use std::borrow::Cow;

use domain::account::may_withdraw;
use domain::checks::Bands;
use domain::control::{self, CommandEffect, Control, EVERYBODY};
use domain::instrument::Instrument;
use domain::price::{FreshnessLimits, is_ahead};
use domain::reason::Reason;
use domain::status::Status;
use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::records::Record;
use ports::topics::TopicId;
use wire::command::{self, Command, Kind, Malformed};
use wire::command_fingerprint::{self, CommandFingerprint};
use wire::event::{Event, OrderEvent};
use wire::topics;

use super::account_tx::{AccountTx, about};
use super::state::{self, OrderRecord, unreadable};
use super::{Orders, RoleSettings, bust, cancel_replace, mass, messages, new_order, shorts};
use crate::decoded_table::DecodedTable;
use crate::ingress::vet;
use crate::settings::{
    BANDS_BY_SIDE, BUST_BY_TRADE, MARGIN_OF_CHANGES, OPERATORS_APART, SHORT_MARGIN, STRICT_FIELDS,
};

/// Refusal of a command.
#[derive(Clone, Copy)]
pub(super) struct CommandRefusal {
    pub reason: Reason,
    pub retry_after_ms: Option<i64>,
    /// The wrong field, if the fault lies in a field.
    pub field: Option<&'static str>,
    /// Text that replaces the reason's own text.
    pub text: Option<&'static str>,
}

/// Facts that decide about an order, besides the account.
pub(super) struct Market {
    pub instrument: Option<Instrument>,
    pub reference: Option<(i64, i64)>,
    pub stale: FreshnessLimits,
    pub open_max: u64,
    pub day_ends_ms: i64,
    pub bands: Bands,
    pub margin: bool,
    /// A replaced order holds as much for its short sale as a new order would.
    pub margin_of_changes: bool,
}

impl From<Reason> for CommandRefusal {
    fn from(reason: Reason) -> Self {
        CommandRefusal {
            reason,
            retry_after_ms: None,
            field: None,
            text: None,
        }
    }
}

impl CommandRefusal {
    pub(super) fn of_field(reason: Reason, field: &'static str) -> Self {
        CommandRefusal {
            field: Some(field),
            ..reason.into()
        }
    }

    /// Text for people, one sentence.
    pub(super) fn text(&self, c: &Command<'_>) -> Cow<'static, str> {
        self.text.map_or_else(|| c.text(self.reason), Cow::Borrowed)
    }
}

impl Orders {
    pub(super) fn command(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let Some((key, value)) = vet(ctx, record) else {
            return Ok(());
        };

        let mut c = match command::decode(value) {
            Ok(c) if c.user_id.as_bytes() == key => c,
            Ok(_) => {
                ctx.dead_letter(
                    record,
                    "MALFORMED",
                    "the record's key is not the command's user_id",
                );
                return Ok(());
            }
            Err(m) => return self.malformed(ctx, record, key, &m),
        };

        if self.settings.rules < STRICT_FIELDS
            || (self.settings.rules < BUST_BY_TRADE && c.kind == Kind::Bust)
        {
            c.unlike = None;
        }

        if self.settings.rules < BUST_BY_TRADE && c.kind == Kind::Bust {
            (c.symbol, c.side) = (None, None);
        }

        let known = state::load_order(
            ctx,
            &mut self.buffers,
            &c.user_id,
            &c.order_id,
            &mut self.entry,
        );

        self.content.clear();
        command_fingerprint::put(&c, &mut self.content);
        let content = CommandFingerprint(&self.content);

        // The order that a cancel, replace or bust names (FIX OrigClOrdID).
        let named = match &c.orig_order_id {
            Some(id) => state::load_order(ctx, &mut self.buffers, &c.user_id, id, &mut self.other),
            None => false,
        };

        let authority = self.settings.authority(record.at.topic, &c);
        let settings = &self.settings;
        let controls = &mut self.controls;
        let opening = |ctx: &mut Ctx<'_>| {
            let off = settings.rules >= OPERATORS_APART
                && (authority.is_err()
                    || [&*c.user_id, EVERYBODY]
                        .into_iter()
                        .any(|whom| controls.get(ctx, whom).is_some()));
            (!off).then_some(settings.opening_cash_e4)
        };

        let mut desk = AccountTx::open(ctx, &mut self.buffers, &c.user_id, opening, &c.order_id)?;

        let first = match known {
            true => Some(
                OrderRecord::read(&self.entry).ok_or_else(|| unreadable(desk.ctx, "an order"))?,
            ),
            false => None,
        };

        let named = match named {
            true => Some(
                OrderRecord::read(&self.other).ok_or_else(|| unreadable(desk.ctx, "an order"))?,
            ),
            false => None,
        };

        let mut named = named.filter(|e| e.content.kind() == Some(Kind::New));
        let in_age = check_age(self.max_age_ns, c.timestamp_ns, desk.ctx.time_ms());
        self.in_time = in_age.is_ok();
        let fit = authority.and(in_age);
        let is_new = fit.is_ok() && first.is_none();

        // New orders and replacements take from the bucket of orders, all other commands from the
        // bucket of messages.
        let is_order = is_new && matches!(c.kind, Kind::New | Kind::Replace);
        let admitted = match &self.messages {
            Some(limit) if record.at.topic == topics::ORDER_COMMANDS && !is_order => match is_new {
                true => messages::admit_cancel(&mut desk, limit, &c, named.as_mut())?,
                false => messages::admit(&mut desk, limit),
            },
            _ => Ok(()),
        };

        let refusal = match (admitted, fit) {
            (Ok(()), Ok(())) => None,
            (Ok(()), Err(reason)) => Some(CommandRefusal::from(reason)),
            (Err(Some(refusal)), _) => Some(refusal),
            (Err(None), _) => {
                desk.close();
                return Ok(());
            }
        };

        if let Some(refusal) = refusal {
            let ends = c.kind == Kind::MassCancel && refusal.reason == Reason::RateLimited;
            match &first {
                Some(first) => {
                    refuse_known(&mut desk, &c.order_id, first, &refusal, &refusal.text(&c))
                }
                None if ends || c.orig_order_id.is_some() => {
                    cancel_replace::refuse(&mut desk, &c, content, named.as_ref(), refusal)
                }
                None => reject(&mut desk, &c, content, refusal),
            }
        } else if let Some(first) = &first {
            repeated(&mut desk, &c, content, first, named.as_ref());
        } else {
            let limited = match (&self.limit, c.kind) {
                (Some(limit), Kind::New | Kind::Replace) => limit
                    .take(desk.account.clock, messages::now_us(desk.ctx))
                    .map(|clock| desk.account.clock = clock),
                _ => Ok(()),
            };

            let may = match limited {
                Err(wait) => Err(CommandRefusal {
                    retry_after_ms: Some(wait),
                    ..Reason::RateLimited.into()
                }),
                Ok(()) => check_kill_switch(&mut self.controls, desk.ctx, &c)
                    .map_err(CommandRefusal::from),
            };

            if may.is_ok() && matches!(c.kind, Kind::New | Kind::Replace | Kind::Withdraw) {
                shorts::mark(&mut desk, &mut self.instruments, &mut self.references)?;
            }

            let outcome = match (may, c.kind) {
                (Err(refusal), _) => Err(refusal),
                // The command has a protective field that would have no effect.
                (Ok(()), _) if c.unlike.is_some() => Err(Reason::UnsupportedCharacteristic.into()),
                (Ok(()), Kind::New | Kind::Replace) => {
                    let symbol = match c.kind {
                        Kind::New => c.symbol.as_deref(),
                        _ => named.and_then(|e| e.content.symbol()),
                    };

                    let instrument =
                        symbol.and_then(|symbol| self.instruments.get(desk.ctx, symbol));

                    // The price of an unlisted symbol decides nothing, so do not read the price,
                    // and do not journal the row.
                    let reference = instrument.and_then(|_| self.references.get(desk.ctx, symbol?));
                    let RoleSettings {
                        open_orders_max: open_max,
                        day_ends_ms,
                        rules,
                        ..
                    } = self.settings;
                    let bands = if rules >= BANDS_BY_SIDE {
                        Bands::BySide
                    } else {
                        Bands::Both
                    };

                    let market = Market {
                        instrument,
                        reference,
                        stale: self.stale,
                        open_max,
                        day_ends_ms,
                        bands,
                        margin: rules >= SHORT_MARGIN,
                        margin_of_changes: rules >= MARGIN_OF_CHANGES,
                    };

                    match c.kind {
                        Kind::New => new_order::order(&mut desk, &c, content, &market)?,
                        _ => cancel_replace::replace(&mut desk, &c, content, named, &market)?,
                    }
                }
                (Ok(()), Kind::Deposit | Kind::Withdraw) => transfer(&mut desk, &c, content)?,
                (Ok(()), Kind::Cancel) => cancel_replace::cancel(&mut desk, &c, content, named),
                (Ok(()), Kind::MassCancel) => mass::begin(&mut desk, &c, content)?,
                (Ok(()), Kind::Bust) => {
                    let marks = bust::BustMarks {
                        instruments: &mut self.instruments,
                        references: &mut self.references,
                    };

                    bust::trade(&mut desk, &c, content, named, marks)?
                }
            };

            match outcome {
                Ok(()) => {}
                Err(refusal) if matches!(c.kind, Kind::Replace | Kind::Bust) => {
                    cancel_replace::refuse(&mut desk, &c, content, named.as_ref(), refusal);
                }
                Err(refusal) => reject(&mut desk, &c, content, refusal),
            }
        }

        desk.close();
        Ok(())
    }

    /// Writes a dead letter. If user and order id are readable, also answers the command, so that
    /// the client does not wait in vain.
    fn malformed(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
        key: &[u8],
        m: &Malformed<'_>,
    ) -> Result<(), InvariantViolation> {
        ctx.dead_letter(record, "MALFORMED", m.text);
        let (Some(user), Some(order_id)) = (m.user_id.as_deref(), m.order_id.as_deref()) else {
            return Ok(());
        };

        if user.as_bytes() != key {
            return Ok(());
        }

        let known = state::load_order(ctx, &mut self.buffers, user, order_id, &mut self.entry);
        let settings = &self.settings;
        let opening = |_: &mut Ctx<'_>| {
            (settings.rules < OPERATORS_APART).then_some(settings.opening_cash_e4)
        };

        let mut desk = AccountTx::open(ctx, &mut self.buffers, user, opening, order_id)?;
        let admitted = match &self.messages {
            Some(limit) if record.at.topic == topics::ORDER_COMMANDS => {
                messages::admit(&mut desk, limit)
            }
            _ => Ok(()),
        };

        let refusal = match admitted {
            Ok(()) => Reason::Malformed.into(),
            Err(Some(refusal)) => refusal,
            Err(None) => {
                desk.close();
                return Ok(());
            }
        };

        let CommandRefusal {
            reason,
            retry_after_ms,
            ..
        } = refusal;
        let text = refusal.text.unwrap_or(m.text);
        if known {
            let first =
                OrderRecord::read(&self.entry).ok_or_else(|| unreadable(desk.ctx, "an order"))?;
            refuse_known(&mut desk, order_id, &first, &refusal, text);
            desk.close();
            return Ok(());
        }

        desk.event(OrderEvent {
            order_id: Some(order_id),
            cause_id: Some(order_id),
            symbol: m.symbol.as_deref(),
            side: m.side,
            quantity: m.quantity,
            cum_quantity: Some(0),
            leaves_quantity: Some(0),
            status: Some(Status::Rejected),
            reason: Some(reason),
            text: Some(text),
            retry_after_ms,
            ..OrderEvent::new(Event::OrderRejected, user)
        });

        desk.close();
        Ok(())
    }
}

impl RoleSettings {
    /// Checks that a command may come by this topic. Brokers can only check the right to write a
    /// topic, so that right identifies an operator.
    fn authority(&self, topic: TopicId, c: &Command<'_>) -> Result<(), Reason> {
        let may = match (topic, c.kind) {
            _ if self.rules < OPERATORS_APART => true,
            (topics::OPERATOR_COMMANDS, Kind::Deposit | Kind::Withdraw | Kind::Bust) => true,
            (topics::OPERATOR_COMMANDS, Kind::Cancel | Kind::MassCancel) => c.operator.is_some(),
            (topics::OPERATOR_COMMANDS, Kind::New | Kind::Replace) => false,
            (_, Kind::Deposit | Kind::Withdraw) => self.client_transfers && c.operator.is_none(),
            (_, _) => c.operator.is_none(),
        };

        if may {
            Ok(())
        } else {
            Err(Reason::NotAuthorized)
        }
    }
}

/// With a limit on age, a command must be neither too old nor from the future. Without a limit or a
/// timestamp, time decides nothing.
fn check_age(max_ns: Option<i128>, timestamp_ns: Option<i128>, now_ms: i64) -> Result<(), Reason> {
    let (Some(max), Some(timestamp)) = (max_ns, timestamp_ns) else {
        return Ok(());
    };

    if is_ahead(timestamp, now_ms) {
        return Err(Reason::FutureTimestamp);
    }

    if i128::from(now_ms) * 1_000_000 - timestamp > max {
        Err(Reason::StaleOrder)
    } else {
        Ok(())
    }
}

/// Checks that no kill switch of the user, or of everybody, forbids the command. Without a kill
/// switch no row exists, so nothing is journaled, and a replay finds none.
fn check_kill_switch(
    controls: &mut DecodedTable<Control>,
    ctx: &mut Ctx<'_>,
    c: &Command<'_>,
) -> Result<(), Reason> {
    let act = match c.kind {
        Kind::New | Kind::Replace => CommandEffect::Order,
        Kind::Deposit | Kind::Withdraw => CommandEffect::Transfer,
        Kind::Cancel | Kind::MassCancel | Kind::Bust => return Ok(()),
    };

    control::check(
        act,
        controls.get(ctx, &c.user_id),
        controls.get(ctx, EVERYBODY),
    )
}

/// Answers a command whose id was used before; state does not change. The same command gets the
/// current status, another command is refused. The status of a cancel is the status of the order
/// that the cancel named. The same holds for a replace or bust that was not refused.
fn repeated(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    first: &OrderRecord<'_>,
    named: Option<&OrderRecord<'_>>,
) {
    let user = desk.user;
    let conflict = first.content.conflict(content);
    let refused = matches!(c.kind, Kind::Replace | Kind::Bust) && first.status == Status::Rejected;
    let (order_id, entry) = match (named, c.orig_order_id.as_deref(), conflict) {
        (Some(named), Some(id), None) if !refused => (id, named),
        _ => (&*c.order_id, first),
    };

    desk.event(match conflict {
        None => OrderEvent {
            cause_id: Some(&c.order_id),
            reason: entry.reason.filter(|_| entry.status.is_terminal()),
            text: Some("the same command was handled before; this is how it stands"),
            ..about(Event::OrderStatus, user, order_id, entry)
        },
        Some(field) => OrderEvent {
            reason: Some(Reason::DuplicateOrder),
            text: Some(Reason::DuplicateOrder.text()),
            conflict_field: Some(field),
            ..about(Event::DuplicateRejected, user, order_id, entry)
        },
    });
}

/// Refuses a command whose id belongs to an order, for a reason that counts before duplicates do
/// (rate, age, authority, malformed). The order is untouched. The event carries the order's status, so that no reader takes the order for ended.
fn refuse_known(
    desk: &mut AccountTx<'_, '_>,
    order_id: &str,
    first: &OrderRecord<'_>,
    refusal: &CommandRefusal,
    text: &str,
) {
    let user = desk.user;
    let CommandRefusal {
        reason,
        retry_after_ms,
        ..
    } = *refusal;
    desk.event(OrderEvent {
        reason: Some(reason),
        text: Some(text),
        retry_after_ms,
        ..about(Event::OrderRejected, user, order_id, first)
    });
}

fn reject(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
    refusal: CommandRefusal,
) {
    let CommandRefusal {
        reason,
        retry_after_ms,
        ..
    } = refusal;
    let entry = OrderRecord::plain(Status::Rejected, Some(reason), content);
    let user = desk.user;
    desk.event(OrderEvent {
        reason: Some(reason),
        text: Some(&refusal.text(c)),
        retry_after_ms,
        ..about(Event::OrderRejected, user, &c.order_id, &entry)
    });

    if desk.buffers.burns_id(reason) {
        desk.note(&c.order_id, &entry);
    }
}

fn transfer(
    desk: &mut AccountTx<'_, '_>,
    c: &Command<'_>,
    content: CommandFingerprint<'_>,
) -> Result<Result<(), CommandRefusal>, InvariantViolation> {
    let deposits = c.kind == Kind::Deposit;
    let Some(amount) = c.amount.and_then(|a| a.positive()) else {
        return Ok(Err(Reason::InvalidAmount.into()));
    };

    if deposits && !desk.account.can_deposit(amount) {
        return Ok(Err(Reason::InvalidAmount.into()));
    }

    if !deposits && let Err(reason) = may_withdraw(&desk.account, amount) {
        return Ok(Err(reason.into()));
    }

    desk.post(|account, totals| {
        if deposits {
            account.deposit(totals, amount)
        } else {
            account.withdraw(totals, amount)
        }
    })?;

    let entry = OrderRecord::plain(Status::Filled, None, content);
    let user = desk.user;
    desk.event(about(
        if deposits {
            Event::Deposited
        } else {
            Event::Withdrawn
        },
        user,
        &c.order_id,
        &entry,
    ));

    desk.note(&c.order_id, &entry);
    Ok(Ok(()))
}
