//! `order-commands` and `operator-commands`: the checks of a command in their fixed order, and the
//! effects of an accepted command.

use domain::account::may_withdraw;
use domain::checks::Bands;
use domain::control::{self, CommandEffect, Control, EVERYBODY};
use domain::price::{FreshnessLimits, is_ahead};
use domain::rate_limit::{Admission, Limit};
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

use super::account_tx::{AccountTx, order_event};
use super::decision::{self, CommandInHand, CommandRefusal, Decision, Market, MarketTables};
use super::state::{self, OrderRecord, OrdersBuffers};
use super::{Orders, RoleSettings, bust, cancel_replace, mass, messages, new_order, shorts};
use crate::decoded_table::{self, DecodedTable};
use crate::ingress::validate_envelope;
use crate::settings::{
    BANDS_BY_SIDE, BUST_BY_TRADE, MARGIN_OF_CHANGES, MESSAGES_BOUNDED, OPERATORS_APART,
    SHORT_MARGIN, STRICT_FIELDS,
};

/// Basis of decisions besides the state of the account: settings and broadcast tables.
pub(super) struct CommandRules {
    settings: RoleSettings,
    limit: Option<Limit>,
    /// Second bucket, for all commands except orders and replacements.
    messages: Option<Limit>,
    stale: FreshnessLimits,
    max_age_ns: Option<i128>,
    market: MarketTables,
    controls: DecodedTable<Control>,
}

/// Bytes of the records of a command, as in state.
#[derive(Default)]
pub(super) struct CommandRecords {
    /// Record of the command's own id, or of the order of an execution.
    pub own: Vec<u8>,
    /// Content of the current command.
    content: Vec<u8>,
    /// Record of the order that a cancel, replace or bust names (FIX OrigClOrdID).
    named: Vec<u8>,
}

impl CommandRecords {
    /// Loads the records that a command refers to.
    fn load<'a>(
        &'a mut self,
        ctx: &mut Ctx<'_>,
        buffers: &mut OrdersBuffers,
        command: &mut CommandInHand<'a>,
    ) -> Result<(), InvariantViolation> {
        let c = command.command;
        self.content.clear();
        command_fingerprint::put(c, &mut self.content);
        command.content = CommandFingerprint(&self.content);

        if state::load_order(ctx, buffers, &c.user_id, &c.order_id, &mut self.own) {
            command.first = Some(state::read_order(ctx, &self.own)?);
        }

        if let Some(id) = &c.orig_order_id
            && state::load_order(ctx, buffers, &c.user_id, id, &mut self.named)
        {
            let named = state::read_order(ctx, &self.named)?;
            command.named = Some(named).filter(|e| e.content.kind() == Some(Kind::New));
        }

        Ok(())
    }
}

impl Orders {
    pub(super) fn command(
        &mut self,
        ctx: &mut Ctx<'_>,
        record: &Record<'_>,
    ) -> Result<(), InvariantViolation> {
        let Some((key, value)) = validate_envelope(ctx, record) else {
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

        let topic = record.at.topic;
        let rules = &mut self.rules;
        rules.settings.drop_newer_fields(&mut c);
        let authority = rules.settings.authority(topic, &c);
        let in_age = check_age(rules.max_age_ns, c.timestamp_ns, ctx.time_ms());
        self.in_time = in_age.is_ok();

        let mut command = CommandInHand::new(&c);
        self.records.load(ctx, &mut self.buffers, &mut command)?;
        let opening = |ctx: &mut Ctx<'_>| rules.opening_cash(ctx, &c, authority);
        let mut tx =
            AccountTx::load_or_open(ctx, &mut self.buffers, &c.user_id, opening, &c.order_id)?;

        let fit = authority.and(in_age);
        let refusal = match rules.admit(&mut tx, topic, &mut command, fit.is_ok())? {
            Admission::Admitted => fit.err().map(CommandRefusal::from),
            Admission::Refused(wait_ms) => Some(messages::refusal(wait_ms)),
            Admission::Unanswered => {
                tx.save();
                return Ok(());
            }
        };

        match (&command.first, refusal) {
            (Some(first), Some(refusal)) => {
                decision::reject(&mut tx, &c.order_id, first, &refusal, &refusal.text(&c));
            }
            (Some(first), None) => decision::answer_repeat(&mut tx, &command, first),
            (None, Some(refusal)) => decision::refuse(&mut tx, &command, refusal),
            (None, None) => match rules.decide(&mut tx, &command)? {
                Decision::Accepted => {}
                Decision::Refused(refusal) => decision::refuse(&mut tx, &command, refusal),
            },
        }

        tx.save();
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

        let (rules, buffers) = (&self.rules, &mut self.buffers);
        let known = state::load_order(ctx, buffers, user, order_id, &mut self.records.own);
        let opening = |_: &mut Ctx<'_>| {
            let settings = &rules.settings;
            (settings.rules < OPERATORS_APART).then_some(settings.opening_cash_e4)
        };

        let mut tx = AccountTx::load_or_open(ctx, buffers, user, opening, order_id)?;
        let admission = match rules.messages_limit(record.at.topic) {
            Some(limit) => messages::admit(&mut tx, limit),
            None => Admission::Admitted,
        };

        let refusal = match admission {
            Admission::Admitted => Some(Reason::Malformed.into()),
            Admission::Refused(wait_ms) => Some(messages::refusal(wait_ms)),
            Admission::Unanswered => None,
        };

        if let Some(refusal) = refusal {
            let text = refusal.text.unwrap_or(m.text);
            if known {
                let first = state::read_order(tx.ctx, &self.records.own)?;
                decision::reject(&mut tx, order_id, &first, &refusal, text);
            } else {
                reject_malformed(&mut tx, order_id, m, &refusal, text);
            }
        }

        tx.save();
        Ok(())
    }
}

/// Rejects a malformed command with an id that was not used before. The id stays free.
fn reject_malformed(
    tx: &mut AccountTx<'_, '_>,
    order_id: &str,
    m: &Malformed<'_>,
    refusal: &CommandRefusal,
    text: &str,
) {
    tx.emit(OrderEvent {
        order_id: Some(order_id),
        cause_id: Some(order_id),
        symbol: m.symbol.as_deref(),
        side: m.side,
        quantity: m.quantity,
        cum_quantity: Some(0),
        leaves_quantity: Some(0),
        status: Some(Status::Rejected),
        reason: Some(refusal.reason),
        text: Some(text),
        retry_after_ms: refusal.retry_after_ms,
        ..OrderEvent::new(Event::OrderRejected, tx.user)
    });
}

impl CommandRules {
    pub(super) fn new(settings: &RoleSettings) -> Self {
        let bounded = settings.rules >= MESSAGES_BOUNDED;
        let limit = Limit::new(settings.rate_limit, settings.burst);
        let factor = settings.message_rate_factor;
        CommandRules {
            settings: *settings,
            limit: limit.map(|limit| match bounded && settings.time_may_fall {
                true => limit,
                false => limit.as_before(settings.time_may_fall),
            }),
            messages: Limit::times(settings.rate_limit, settings.burst, factor).filter(|_| bounded),
            stale: FreshnessLimits::new(settings.stale_ms, settings.time_may_fall),
            max_age_ns: settings
                .max_command_age_ms
                .map(|ms| i128::from(ms) * 1_000_000),
            market: MarketTables {
                instruments: decoded_table::instruments(),
                references: decoded_table::references(),
            },
            controls: decoded_table::controls(),
        }
    }

    /// Opening cash, if the command may open an account: not if the command is refused for its
    /// topic or a kill switch.
    fn opening_cash(
        &mut self,
        ctx: &mut Ctx<'_>,
        c: &Command<'_>,
        authority: Result<(), Reason>,
    ) -> Option<i64> {
        let off = self.settings.rules >= OPERATORS_APART
            && (authority.is_err()
                || [&*c.user_id, EVERYBODY]
                    .into_iter()
                    .any(|whom| self.controls.get(ctx, whom).is_some()));
        (!off).then_some(self.settings.opening_cash_e4)
    }

    /// Limit of the second bucket, if the topic has a limit.
    fn messages_limit(&self, topic: TopicId) -> Option<&Limit> {
        self.messages
            .as_ref()
            .filter(|_| topic == topics::ORDER_COMMANDS)
    }

    /// Takes from the bucket of messages. New orders and replacements take from the bucket of
    /// orders later. `is_fit`: topic and age are right.
    fn admit(
        &self,
        tx: &mut AccountTx<'_, '_>,
        topic: TopicId,
        command: &mut CommandInHand<'_>,
        is_fit: bool,
    ) -> Result<Admission, InvariantViolation> {
        let is_new = is_fit && command.first.is_none();
        let is_order = is_new && matches!(command.command.kind, Kind::New | Kind::Replace);
        match self.messages_limit(topic) {
            Some(limit) if !is_order && is_new => messages::admit_cancel(tx, limit, command),
            Some(limit) if !is_order => Ok(messages::admit(tx, limit)),
            _ => Ok(Admission::Admitted),
        }
    }

    /// Decides about a new command, and executes an accepted command.
    fn decide(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        command: &CommandInHand<'_>,
    ) -> Result<Decision, InvariantViolation> {
        let c = command.command;
        if let Err(refusal) = self.check_permission(tx, c) {
            return Ok(refusal.into());
        }

        if matches!(c.kind, Kind::New | Kind::Replace | Kind::Withdraw) {
            shorts::mark(tx, &mut self.market)?;
        }

        // The command has a protective field that would have no effect.
        if c.unlike.is_some() {
            return Ok(Reason::UnsupportedCharacteristic.into());
        }

        match c.kind {
            Kind::New => {
                let market = self.market(tx.ctx, c.symbol.as_deref());
                new_order::enter(tx, command, &market)
            }
            Kind::Replace => {
                let symbol = command.named.and_then(|e| e.content.symbol());
                let market = self.market(tx.ctx, symbol);
                cancel_replace::replace(tx, command, &market)
            }
            Kind::Deposit => deposit(tx, command),
            Kind::Withdraw => withdraw(tx, command),
            Kind::Cancel => Ok(cancel_replace::cancel(tx, command)),
            Kind::MassCancel => mass::begin(tx, command),
            Kind::Bust => bust::bust(tx, command, &mut self.market),
        }
    }

    /// Checks the rate limit of orders, and the kill switches.
    fn check_permission(
        &mut self,
        tx: &mut AccountTx<'_, '_>,
        c: &Command<'_>,
    ) -> Result<(), CommandRefusal> {
        if let Some(limit) = &self.limit
            && matches!(c.kind, Kind::New | Kind::Replace)
        {
            tx.account.clock = limit
                .take(tx.account.clock, messages::now_us(tx.ctx))
                .map_err(CommandRefusal::limited)?;
        }

        check_kill_switch(&mut self.controls, tx.ctx, c).map_err(CommandRefusal::from)
    }

    /// Facts about a symbol. The price of an unlisted symbol decides nothing, so do not read the
    /// price, and do not journal the row.
    fn market(&mut self, ctx: &mut Ctx<'_>, symbol: Option<&str>) -> Market {
        let tables = &mut self.market;
        let instrument = symbol.and_then(|symbol| tables.instruments.get(ctx, symbol));
        let reference = instrument.and_then(|_| tables.references.get(ctx, symbol?));
        let rules = self.settings.rules;
        Market {
            instrument,
            reference,
            stale: self.stale,
            open_max: self.settings.open_orders_max,
            day_ends_ms: self.settings.day_ends_ms,
            bands: if rules >= BANDS_BY_SIDE {
                Bands::BySide
            } else {
                Bands::Both
            },
            margin: rules >= SHORT_MARGIN,
            margin_of_changes: rules >= MARGIN_OF_CHANGES,
        }
    }
}

impl RoleSettings {
    /// Drops the fields of a command that old rules ignore.
    fn drop_newer_fields(&self, c: &mut Command<'_>) {
        let old_bust = self.rules < BUST_BY_TRADE && c.kind == Kind::Bust;
        if self.rules < STRICT_FIELDS || old_bust {
            c.unlike = None;
        }

        if old_bust {
            (c.symbol, c.side) = (None, None);
        }
    }

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

fn deposit(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
) -> Result<Decision, InvariantViolation> {
    let amount = command.command.amount.and_then(|a| a.positive());
    let Some(amount) = amount.filter(|amount| tx.account.can_deposit(*amount)) else {
        return Ok(Reason::InvalidAmount.into());
    };

    tx.post_cash(|account, totals| account.deposit(totals, amount))?;
    transferred(tx, command, Event::Deposited);
    Ok(Decision::Accepted)
}

fn withdraw(
    tx: &mut AccountTx<'_, '_>,
    command: &CommandInHand<'_>,
) -> Result<Decision, InvariantViolation> {
    let Some(amount) = command.command.amount.and_then(|a| a.positive()) else {
        return Ok(Reason::InvalidAmount.into());
    };

    if let Err(reason) = may_withdraw(&tx.account, amount) {
        return Ok(reason.into());
    }

    tx.post_cash(|account, totals| account.withdraw(totals, amount))?;
    transferred(tx, command, Event::Withdrawn);
    Ok(Decision::Accepted)
}

/// Records a transfer that was posted.
fn transferred(tx: &mut AccountTx<'_, '_>, command: &CommandInHand<'_>, event: Event) {
    let order_id = &command.command.order_id;
    let entry = OrderRecord::plain(Status::Filled, None, command.content);
    tx.emit(order_event(event, tx.user, order_id, &entry));
    tx.save_order(order_id, &entry);
}
