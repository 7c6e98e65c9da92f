//! Checks at rest: every store equals the oracle's store, and the invariants of the domain hold.

use std::collections::{BTreeMap, BTreeSet};

use domain::chain;
use domain::reason::Reason;
use domain::status::{Liquidity, Side, Status};
use engine::checkpoint::StoreMeta;
use ports::topics::TopicId;
use ports::{StateStore, Stores};
use roles::reconciliation::Reconciliation;
use roles::{Role, orders, show};
use wire::audit::AuditEntry;
use wire::event::{Event, OrderEvent};
use wire::portfolio::PortfolioRecord;
use wire::topics;
use wire::trade::{Trade, TradeBusted};

use super::super::cluster::Cluster;
use super::super::coverage::Kind;
use super::super::store::Files;
use super::super::world::{Life, World};

impl World {
    /// Runs all final checks.
    pub fn finish(&mut self) {
        self.follow();
        let untransacted = self.plan.untransacted;
        let mut checks = vec![self.check_followers(), self.check_states()];
        if !untransacted {
            checks.extend([
                self.check_books(),
                self.check_market(),
                check_settled(&self.cluster, self.runs(Role::Trading)),
            ]);
            checks.extend([self.check_followups(), self.check_audit()]);
        }

        if let Some(why) = checks.into_iter().find_map(Result::err) {
            self.violated(why);
        }

        for kind in seen(&self.cluster).into_iter().chain(self.forgotten()) {
            self.cover(kind);
        }
    }

    fn runs(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The stores of running processes at this transaction of a task. A damaged store counts: no
    /// process has read it since the damage, and the next reader will rebuild it.
    fn holders(&self, role: Role, task: u32, transactions: u64) -> impl Iterator<Item = &Files> {
        let at = move |files: &&Files| {
            let meta = files.meta.as_ref().and_then(|m| StoreMeta::decode(m).ok());
            files.damaged || meta.is_some_and(|m| m.verified && m.meta.transaction == transactions)
        };

        let running = self
            .processes
            .iter()
            .filter(move |p| p.role == role && p.life == Life::Running);
        running
            .filter_map(move |p| self.disks[p.disk].tasks.get(&task))
            .filter(at)
    }

    /// The first task with transactions whose last transaction is in no running process's store
    /// yet.
    pub fn unstored(&self) -> Option<(Role, u32)> {
        let roles = if self.plan.untransacted {
            &[][..]
        } else {
            &self.roles
        };

        roles.iter().find_map(|role| {
            let tasks = (0_u32..).zip(&self.oracle.role(*role).expect("it runs").tasks);
            let mut decided = tasks
                .map(|(n, t)| (n, t.transactions()))
                .filter(|(_, transactions)| *transactions > 0);
            decided
                .find(|(n, transactions)| self.holders(*role, *n, *transactions).next().is_none())
                .map(|(n, _)| (*role, n))
        })
    }

    /// Stores at the last transaction must equal the oracle's stores. The run has waited until each
    /// task has such a store ([`World::unstored`]).
    fn check_states(&self) -> Result<(), String> {
        for role in &self.roles {
            if self.plan.untransacted {
                continue;
            }

            let oracle = self.oracle.role(*role).expect("it runs");
            for (number, expected) in (0_u32..).zip(&oracle.tasks) {
                if expected.transactions() == 0 {
                    continue;
                }

                let store = oracle.stores.open(number).map_err(|e| e.to_string())?;
                let mut must = Vec::new();
                store
                    .scan(b"", &mut |k, v| {
                        must.push((k.to_vec(), v.to_vec()));
                        true
                    })
                    .map_err(|e| e.to_string())?;
                for files in self
                    .holders(*role, number, expected.transactions())
                    .filter(|files| !files.damaged)
                {
                    if !files.data.iter().eq(must.iter().map(|(k, v)| (k, v))) {
                        return Err(format!(
                            "final state: the store of {role} task {number} is not what a replay gives"
                        ));
                    }
                }
            }
        }

        Ok(())
    }

    /// I1 to I3.
    fn check_books(&self) -> Result<(), String> {
        let Some(oracle) = self.oracle.role(Role::Orders) else {
            return Ok(());
        };

        for number in 0..oracle.tasks.len() as u32 {
            let store: Box<dyn StateStore> =
                oracle.stores.open(number).map_err(|e| e.to_string())?;
            orders::check_books(&*store)
                .map_err(|why| format!("I1-I3: orders task {number}: {why}"))?;
        }

        Ok(())
    }

    /// One entry for each forgotten id.
    fn forgotten(&self) -> Vec<Kind> {
        let stores = self
            .oracle
            .role(Role::Orders)
            .into_iter()
            .flat_map(|o| (0..o.tasks.len() as u32).map(|n| o.stores.open(n)));
        let queue = |store: Box<dyn StateStore>| {
            let mut row = Vec::new();
            store.get(b"w", &mut row).ok()?.then_some(())?;
            show::show(Role::Orders, b"w", &row)?.1["ended"][0].as_u64()
        };

        let count = stores.filter_map(|store| queue(store.ok()?)).sum::<u64>();
        vec![Kind::Forgotten; count as usize]
    }

    /// I4: at rest no command is in flight, and the open orders of `orders` are exactly the orders
    /// in the books. Then the events: each must end every other order.
    fn check_market(&self) -> Result<(), String> {
        let (Some(accounts), Some(books)) = (
            self.oracle.role(Role::Orders),
            self.oracle.role(Role::Trading),
        ) else {
            return check_events(&self.cluster, None, self.plan.window_ms.is_some());
        };

        let mut all = Reconciliation::default();
        for number in 0..accounts.tasks.len() as u32 {
            all.add_orders(&*accounts.stores.open(number).map_err(|e| e.to_string())?)?;
        }

        for number in 0..books.tasks.len() as u32 {
            all.add_trading(&*books.stores.open(number).map_err(|e| e.to_string())?)?;
        }

        let open = all.check().map_err(|why| format!("I1, I4: {why}"))?;
        let in_books = open
            .into_iter()
            .map(|(user, order, _)| (user, order))
            .collect();
        check_events(
            &self.cluster,
            Some(&in_books),
            self.plan.window_ms.is_some(),
        )
    }

    /// The followers of `order-events` have read it to the end.
    fn check_followups(&self) -> Result<(), String> {
        let mut last = BTreeMap::new();
        let mut events = 0;
        each(&self.cluster, topics::ORDER_EVENTS, &mut |value| {
            events += 1;
            let e = OrderEvent::decode(value)?;
            last.insert(e.user_id.to_string(), e.user_seq);
            Ok(())
        })?;

        if self.runs(Role::Notifications) {
            let mut told = 0;
            each(&self.cluster, topics::NOTIFICATIONS, &mut |_| {
                told += 1;
                Ok(())
            })?;

            if told != events {
                return Err(format!("notifications: {told} for {events} events"));
            }
        }

        if self.runs(Role::Portfolio) {
            let mut portfolios = BTreeMap::new();
            each(&self.cluster, topics::PORTFOLIOS, &mut |value| {
                let p = PortfolioRecord::decode(value)?;
                portfolios.insert(p.user_id, p.user_seq);
                Ok(())
            })?;

            if portfolios != last {
                return Err(format!(
                    "portfolios: they stand at {portfolios:?} where {last:?} was due"
                ));
            }
        }

        Ok(())
    }

    /// I8: one entry for each record of the public topics, in chains that verify.
    fn check_audit(&self) -> Result<(), String> {
        if !self.runs(Role::Audit) {
            return Ok(());
        }

        let mut chains = BTreeMap::<
            (String, u32),
            Vec<(
                u64,
                chain::Hash,
                Option<chain::Hash>,
                chain::Hash,
                chain::Hash,
            )>,
        >::new();

        each(&self.cluster, topics::AUDIT_LOG, &mut |value| {
            let e = AuditEntry::decode(value)?;
            let link = (
                e.src_offset,
                e.payload_hash,
                e.meta_hash,
                e.prev_hash,
                e.hash,
            );

            chains
                .entry((e.src_topic.to_string(), e.src_partition))
                .or_default()
                .push(link);
            Ok(())
        })?;

        for topic in topics::AUDITED {
            let name = self.table.name(topic);
            for part in self.cluster.topic(topic) {
                let p = part.at.partition;
                let links = chains.remove(&(name.to_string(), p)).unwrap_or_default();
                let mut links = links.iter();
                let mut previous = chain::GENESIS;
                for offset in part.committed(0, part.end()) {
                    let r = part.record(offset);
                    let payload = chain::payload_hash(r.key, r.value);
                    let meta = chain::meta_hash(
                        r.timestamp_ms,
                        r.key.is_some(),
                        r.value.is_some(),
                        r.headers.iter(),
                    );
                    let hash = chain::link(
                        &previous,
                        &format!("{name}/{p}/{offset}"),
                        &payload,
                        Some(&meta),
                    );
                    if links.next() != Some(&(offset, payload, Some(meta), previous, hash)) {
                        return Err(format!(
                            "I8: the audit entry for {name}/{p}/{offset} is missing or wrong"
                        ));
                    }

                    previous = hash;
                }

                if links.next().is_some() {
                    return Err(format!("I8: more audit entries than records of {name}/{p}"));
                }
            }
        }

        Ok(())
    }
}

/// Results of the commands, as kinds that a campaign must contain.
fn seen(cluster: &Cluster) -> Vec<Kind> {
    let mut kinds = Vec::new();
    let mut taken = BTreeSet::new();
    let all = each(cluster, topics::ORDER_EVENTS, &mut |value| {
        let e = OrderEvent::decode(value)?;
        kinds.extend((e.cash_available_e4 < 0).then_some(Kind::Owing));
        kinds.extend(e.unanswered.map(|_| Kind::Unanswered));
        kinds.extend(match (e.event, e.reason) {
            (_, Some(Reason::KillSwitch | Reason::AccountDisabled)) => Some(Kind::SwitchedOff),
            (Event::OrderCancelled, Some(Reason::Operator)) => Some(Kind::ByOperator),
            (Event::OrderCancelled, Some(Reason::Delisted)) => Some(Kind::Delisted),
            (Event::OrderCancelled, Some(Reason::UserRequest | Reason::MassCancel)) => {
                Some(Kind::Cancelled)
            }
            (Event::OrderFilled | Event::OrderPartiallyFilled, _)
                if e.liquidity == Some(Liquidity::Maker) =>
            {
                Some(Kind::Traded)
            }
            (Event::OrderTriggered, _) => Some(Kind::Fired),
            (Event::OrderReplaced, _) => Some(Kind::Changed),
            (Event::OrderExpired, _) => Some(Kind::Expired),
            (Event::TradeBusted, _) => Some(Kind::TakenBack),
            (Event::CancelRejected, _) if e.status.is_none() => Some(Kind::AnsweredLate),
            (Event::OrderPending, _) => {
                let order = (e.user_id.to_string(), e.order_id.map(str::to_string));
                (!taken.insert(order)).then_some(Kind::TakenAgain)
            }
            _ => None,
        });

        Ok(())
    });

    // The checks above report an undecodable record as a violation.
    if all.is_ok() { kinds } else { Vec::new() }
}

fn each(
    cluster: &Cluster,
    topic: TopicId,
    visit: &mut dyn FnMut(&[u8]) -> Result<(), &'static str>,
) -> Result<(), String> {
    for part in cluster.topic(topic) {
        for offset in part.committed(0, part.end()) {
            visit(part.record(offset).value.unwrap_or_default())
                .map_err(|e| format!("{:?}/{offset}: {e}", part.at))?;
        }
    }

    Ok(())
}

/// I2, I7, I10: sequences without gap or repeat, no negative balance, exactly one end for each
/// order outside the books. Without books the last check is skipped.
fn check_events(
    cluster: &Cluster,
    in_books: Option<&BTreeSet<(String, String)>>,
    forgets: bool,
) -> Result<(), String> {
    let mut sequences = BTreeMap::<String, u64>::new();
    let mut owing = BTreeMap::<String, i64>::new();
    let mut open = BTreeMap::<(String, String), bool>::new();
    let mut wrong = None;
    each(cluster, topics::ORDER_EVENTS, &mut |value| {
        let e = OrderEvent::decode(value)?;
        let last = sequences.entry(e.user_id.to_string()).or_default();
        if e.user_seq != *last + 1 {
            wrong.get_or_insert(format!(
                "I7: user {} has event {} where {} was due",
                e.user_id,
                e.user_seq,
                *last + 1
            ));
        }

        *last = e.user_seq;

        // A busted trade can make available cash negative until the debt is covered. Orders and
        // withdrawals never make it negative.
        let owes = owing.entry(e.user_id.to_string()).or_insert(0);
        let deeper = e.cash_available_e4 < (*owes).min(0) && e.event != Event::TradeBusted;
        *owes = e.cash_available_e4;
        if deeper || e.cash_reserved_e4 < 0 {
            wrong.get_or_insert(format!(
                "I2: user {} has {} and {}",
                e.user_id, e.cash_available_e4, e.cash_reserved_e4
            ));
        }

        let Some(id) = e.order_id else { return Ok(()) };
        let order = (e.user_id.to_string(), id.to_string());
        match e.event {
            // A forgotten id may be used again. Ids of open orders are never forgotten.
            Event::OrderPending
                if open
                    .insert(order.clone(), true)
                    .is_some_and(|was_open| was_open || !forgets) =>
            {
                wrong.get_or_insert(format!("I10: order {id} was taken twice"));
            }
            Event::OrderFilled
            | Event::OrderReplaced
            | Event::OrderCancelled
            | Event::OrderExpired
            | Event::OrderRejected
                if e.status.is_some_and(Status::is_terminal) && open.contains_key(&order) =>
            {
                // These rejects end no order:
                //
                // * the reject of a repeated command, which reports the state of the order;
                // * the reject of a command whose id was forgotten and not accepted again;
                // * the reject of a command in a topic that may not carry the command;
                // * the reject of the rate limit.
                let anew = forgets && open.get(&order) == Some(&false);
                let astray = matches!(e.reason, Some(Reason::NotAuthorized | Reason::RateLimited));
                let refusal = e.event == Event::OrderRejected
                    && (e.status != Some(Status::Rejected) || anew || astray);
                if !refusal && open.insert(order, false) == Some(false) {
                    wrong.get_or_insert(format!("I10: order {id} ended twice"));
                }
            }
            _ => {}
        }

        Ok(())
    })?;

    wrong.map_or(Ok(()), Err)?;
    match open
        .iter()
        .find(|(order, open)| in_books.is_some_and(|books| **open != books.contains(order)))
    {
        Some(((user, id), true)) => Err(format!("I10: order {id} of {user} has no end")),
        Some(((user, id), false)) => Err(format!(
            "I10: order {id} of {user} has ended and is in a book"
        )),
        None => Ok(()),
    }
}

/// I5: each leg of each trade is settled once, at the trade's quantity and price. The legs of the
/// house have no order.
fn check_settled(cluster: &Cluster, traded: bool) -> Result<(), String> {
    let mut legs = BTreeMap::new();
    let mut fills = BTreeMap::new();

    // Busted quantities, from the trades and from the users' events: order and trade, quantity,
    // price.
    let mut backs = BTreeMap::new();
    let mut told = BTreeMap::new();
    let mut twice = None;
    each(cluster, topics::TRADES, &mut |value| {
        if let Ok(b) = TradeBusted::decode(value) {
            for order in [b.buy_order_id, b.sell_order_id].into_iter().flatten() {
                let user = if b.buy_order_id.is_some() {
                    b.buyer
                } else {
                    b.seller
                };

                let of = (
                    user.unwrap_or("").to_string(),
                    order.to_string(),
                    b.trade_id.to_string(),
                    b.price_e4,
                );
                *backs.entry(of).or_insert(0) += b.busted_quantity;
            }

            return Ok(());
        }

        let t = Trade::decode(value)?;
        for (side, order) in [(Side::Buy, t.buy_order_id), (Side::Sell, t.sell_order_id)] {
            let Some(order) = order else { continue };
            if legs
                .insert(
                    (t.trade_id.to_string(), side),
                    (order.to_string(), t.quantity, t.price_e4),
                )
                .is_some()
            {
                twice.get_or_insert(format!("I5: trade {} happened twice", t.trade_id));
            }
        }

        Ok(())
    })?;

    each(cluster, topics::ORDER_EVENTS, &mut |value| {
        let e = OrderEvent::decode(value)?;
        if let (Event::TradeBusted, Some(id)) = (e.event, e.trade_id) {
            let of = (
                e.user_id.to_string(),
                e.order_id.unwrap_or("").to_string(),
                id.to_string(),
                e.last_price_e4.unwrap_or(0),
            );
            *told.entry(of).or_insert(0) += e.last_quantity.unwrap_or(0);
        }

        if let (Event::OrderFilled | Event::OrderPartiallyFilled, Some(id)) = (e.event, e.trade_id)
        {
            let fill = (
                e.order_id.unwrap_or("").to_string(),
                e.last_quantity.unwrap_or(0),
                e.last_price_e4.unwrap_or(0),
            );
            if fills
                .insert((id.to_string(), e.side.unwrap_or(Side::Buy)), fill)
                .is_some()
            {
                twice.get_or_insert(format!("I5: trade {id} was settled twice"));
            }
        }

        Ok(())
    })?;

    twice.map_or(Ok(()), Err)?;
    for ((_, order, trade, price), quantity) in &told {
        let is_like = |side| {
            fills
                .get(&(trade.clone(), side))
                .is_some_and(|(o, q, p)| (o, p) == (order, price) && quantity <= q)
        };

        if !is_like(Side::Buy) && !is_like(Side::Sell) {
            return Err(format!(
                "I5: {quantity} at {price} of trade {trade} of order {order} were taken back, and no fill is like that"
            ));
        }
    }

    if traded && backs != told {
        return Err(format!(
            "I5: trades say that {backs:?} were taken back, users were told {told:?}"
        ));
    }

    if traded && legs != fills {
        Err(format!("I5: trades {legs:?} were settled as {fills:?}"))
    } else {
        Ok(())
    }
}
