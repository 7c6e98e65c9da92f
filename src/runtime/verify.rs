//! `processor verify`: checks stores and log. Reads only, and may run beside the roles. Records
//! that arrive during a run are left to the next run.

use std::collections::BTreeMap;

use audit::chains::Chains;
use engine::checkpoint::Checkpoint;
use engine::digest::{self, Digest};
use engine::last_meta::OffsetComparison;
use engine::restore::scan_digest;
use os::clock::wall_ms;
use ports::topics::{TopicId, TopicPartition};
use ports::{LogError, StoreError};
use roles::reconciliation::Reconciliation;
use roles::{Role, orders};
use wire::event::{Event, OrderEvent};
use wire::topics;
use wire::trade::{Trade, TradeBusted};

use super::busts::Busts;
use super::replay::newest_store;
use super::system::Installation;
use super::{lag, standing};

/// Transactions of clients that are open longer than this are reported.
const HELD_MS: i64 = 10_000;

/// Result of one check.
#[derive(Clone, Debug)]
pub struct Check {
    /// Object of the check.
    pub name: String,
    pub ok: bool,
    /// Figures, or the error.
    pub detail: String,
}

impl Check {
    /// `result`: the figures, or the error.
    fn new(name: impl Into<String>, result: Result<String, String>) -> Check {
        let ok = result.is_ok();
        let (Ok(detail) | Err(detail)) = result;
        Check {
            name: name.into(),
            ok,
            detail,
        }
    }
}

/// Reasons for a run without checks.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error(transparent)]
    Log(#[from] LogError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Runs all checks of `roles`; `each` receives every result at once.
pub fn run(
    system: &Installation,
    roles: &[Role],
    each: &mut dyn FnMut(&Check),
) -> Result<bool, VerifyError> {
    let mut all_ok = true;
    let mut tell = |check: Check| {
        all_ok &= check.ok;
        each(&check);
    };

    for role in roles {
        let mut stores = BTreeMap::new();
        for task in 0..system.tasks(*role)? {
            stores.extend(store(system, *role, task, &mut tell)?.map(|meta| (task, meta)));
        }

        positions(system, *role, &stores, &mut tell)?;
        held(system, *role, &mut tell)?;
    }

    let partitions = system.partitions()?;
    if roles.contains(&Role::Orders) {
        for p in 0..partitions[topics::ORDER_EVENTS.0 as usize] {
            tell(sequences(system, p)?);
        }

        tell(settlement(system, &partitions)?);
        if roles.contains(&Role::Trading)
            && let Some(check) = market(system)?
        {
            tell(check);
        }
    }

    if roles.contains(&Role::Audit) {
        audit(system, &mut tell)?;
    }

    Ok(all_ok)
}

/// Compares a store's content with its digest; for `orders`, also checks the books. Returns the
/// position of the store.
fn store(
    system: &Installation,
    role: Role,
    task: u32,
    tell: &mut dyn FnMut(Check),
) -> Result<Option<Checkpoint>, VerifyError> {
    let name = format!("{} task {task}: state", role.name());
    let damaged = |why: String| {
        let why = format!(
            "{why}; `processor rebuild --role {}` restores it from the changelog",
            role.name()
        );
        Check::new(name.clone(), Err(why))
    };

    let (path, store, meta) = match newest_store(&system.state, role, task) {
        Ok(Some(found)) => found,
        Ok(None) => return Ok(None),
        Err(StoreError::Corrupt(why)) => {
            tell(damaged(why));
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };

    let digest = match scan_digest(&*store) {
        Ok(digest) => digest,
        Err(StoreError::Corrupt(why)) => {
            tell(damaged(why));
            return Ok(None);
        }
        Err(e) => return Err(e.into()),
    };

    let (meta, path) = (meta.meta, path.display());
    let compared = match digest == meta.digest {
        true => Ok(format!(
            "transaction {}, digest {digest} ({path})",
            meta.transaction
        )),
        false => Err(format!(
            "digest of the content is {digest}, recorded is {} ({path})",
            meta.digest
        )),
    };

    tell(Check::new(name, compared));
    if role == Role::Orders {
        let name = format!("orders task {task}: books");
        tell(Check::new(name, orders::check_books(&*store)));
    }

    Ok(Some(meta))
}

/// Compares, as a start does, the group's committed offsets, the last meta record of each changelog
/// partition, and the local stores.
fn positions(
    system: &Installation,
    role: Role,
    stores: &BTreeMap<u32, Checkpoint>,
    tell: &mut dyn FnMut(Check),
) -> Result<(), VerifyError> {
    for (task, standing) in standing::look(system, role)? {
        let store = stores.get(&task);
        let last = standing.last.as_ref().map(|l| &l.meta);
        let name = format!("{} task {task}: position", role.name());
        if let OffsetComparison::Differ(_) = standing.fit {
            let what = standing::differences(system, role, task, &standing);
            let repair = format!("`processor repair offsets --role {}`", role.name());
            let detail = format!(
                "a start refuses to run, because committed offsets and changelog do not fit: {what}. {repair} puts that right"
            );
            tell(Check::new(name, Err(detail)));
            continue;
        }

        let Some(compared) = compare(store, last) else {
            continue;
        };

        let absent = if standing.fit == OffsetComparison::Absent {
            "; some or all of the group's offsets are gone, a start takes those of the last meta record"
        } else {
            ""
        };

        let add = |detail: String| format!("{detail}{absent}");
        tell(Check::new(name, compared.map(add).map_err(add)));
    }

    Ok(())
}

/// Compares a local store with the last meta record of its changelog; none if neither exists.
fn compare(
    store: Option<&Checkpoint>,
    last: Option<&Checkpoint>,
) -> Option<Result<String, String>> {
    Some(match (store, last) {
        (None, None) => return None,
        (Some(have), None) if have.transaction == 0 => Ok("at the start, as the group".to_string()),
        (Some(have), None) => Err(format!(
            "local state has {} transactions, of which neither the changelog nor the group knows",
            have.transaction
        )),
        (None, Some(last)) => Ok(format!(
            "transaction {}; no local state here",
            last.transaction
        )),
        (Some(have), Some(last)) if have.offsets == last.offsets => {
            Ok("equals the committed offsets".to_string())
        }
        (Some(have), Some(last)) if have.transaction < last.transaction => {
            let n = last.transaction - have.transaction;
            Ok(format!(
                "{n} transactions behind (the role runs, or a restart will catch up)"
            ))
        }
        (Some(have), Some(last)) => Err(format!(
            "ahead of the log: local state is at transaction {}, the changelog at {}; a start puts it aside and rebuilds it",
            have.transaction, last.transaction
        )),
    })
}

/// Reports input that cannot be read, because an open transaction of a client precedes it. No data
/// is damaged, but the records behind that transaction wait.
fn held(system: &Installation, role: Role, tell: &mut dyn FnMut(Check)) -> Result<(), LogError> {
    let now = wall_ms();
    for lag in lag::of_role(&*system.log, role, &system.group(role))? {
        let Some(since) = lag.held_since_ms.filter(|since| now - since > HELD_MS) else {
            continue;
        };

        let name = format!("{}: {}", role.name(), system.topics.show(lag.at));
        let detail = format!(
            "{} records wait behind a transaction that has been open for {} s",
            lag.held(),
            (now - since) / 1000
        );
        tell(Check::new(name, Ok(detail)));
    }

    Ok(())
}

/// A check over all tasks. None unless the local state of all tasks is here.
fn market(system: &Installation) -> Result<Option<Check>, VerifyError> {
    let name = "orders and trading: clearing and open orders".to_string();
    let mut all = Reconciliation::default();
    for role in [Role::Orders, Role::Trading] {
        for task in 0..system.tasks(role)? {
            let store = match newest_store(&system.state, role, task) {
                Ok(Some((_, store, _))) => store,
                // The check of this store reports the error.
                Ok(None) | Err(StoreError::Corrupt(_)) => return Ok(None),
                Err(e) => return Err(e.into()),
            };

            let read = if role == Role::Orders {
                all.add_orders(&*store)
            } else {
                all.add_trading(&*store)
            };

            if let Err(why) = read {
                return Ok(Some(Check::new(name, Err(why))));
            }
        }
    }

    let checked = all.check().map(|open| {
        format!(
            "nothing is on its way; {} orders are open and in a book",
            open.len()
        )
    });
    Ok(Some(Check::new(name, checked)))
}

/// Checks that every user's events have the numbers 1, 2, 3, ...
fn sequences(system: &Installation, partition: u32) -> Result<Check, LogError> {
    let mut last = BTreeMap::<String, u64>::new();
    let mut events = 0u64;
    let mut wrong = Vec::new();
    ports::scan::partition(
        &*system.log,
        TopicPartition::new(topics::ORDER_EVENTS, partition),
        &mut |r| {
            events += 1;
            match OrderEvent::decode(r.value.unwrap_or_default()) {
                Err(e) => wrong.push(format!("offset {}: {e}", r.offset)),
                Ok(e) => {
                    let last = last.entry(e.user_id.to_string()).or_default();
                    if e.user_seq != *last + 1 {
                        wrong.push(format!(
                            "offset {}: user {} has {} where {} was due",
                            r.offset,
                            e.user_id,
                            e.user_seq,
                            *last + 1
                        ));
                    }

                    *last = e.user_seq;
                }
            }
        },
    )?;

    let detail = wrong.first().map_or(
        format!(
            "{events} events of {} users without gap or repeat",
            last.len()
        ),
        Clone::clone,
    );

    Ok(Check {
        name: format!("order-events/{partition}: sequences"),
        ok: wrong.is_empty(),
        detail,
    })
}

/// Checks that every side of every trade is settled exactly once, at its quantity and price.
fn settlement(system: &Installation, partitions: &[u32]) -> Result<Check, LogError> {
    let every = |topic: TopicId, visit: &mut dyn FnMut(&[u8])| {
        (0..partitions[topic.0 as usize]).try_for_each(|p| {
            ports::scan::partition(&*system.log, TopicPartition::new(topic, p), &mut |r| {
                visit(r.value.unwrap_or_default())
            })
        })
    };

    let mut settled = TradeSides::default();
    let mut busts = Busts::default();
    every(topics::ORDER_EVENTS, &mut |value| {
        if let Ok(e) = OrderEvent::decode(value) {
            busts.event(&e);
            settled.fill(&e);
        }
    })?;

    if !busts.is_empty() {
        every(topics::ORDER_EVENTS, &mut |value| {
            OrderEvent::decode(value)
                .into_iter()
                .for_each(|e| busts.fill(&e))
        })?;
    }

    let mut traded = TradeSides::default();
    let mut trades = 0u64;
    every(topics::TRADES, &mut |value| {
        if let Ok(b) = TradeBusted::decode(value) {
            busts.told(&b);
        } else if let Ok(t) = Trade::decode(value) {
            traded.trade(&t);
            trades += 1;
        }
    })?;

    Ok(match busts.check() {
        Err(why) => Check::new("trades: taken back", Err(why)),
        Ok(()) => Check::new(
            "trades: settlement",
            settled_once(trades, &traded, &settled),
        ),
    })
}

/// Sides of trades: their number, and the sum over their hashes.
#[derive(Default, PartialEq, Eq)]
struct TradeSides {
    count: u64,
    sum: Digest,
}

impl TradeSides {
    fn add(&mut self, trade_id: &str, quantity: i64, price_e4: i64) {
        let amounts = [quantity.to_be_bytes(), price_e4.to_be_bytes()].concat();
        let side = digest::of(trade_id.as_bytes(), &amounts);
        self.sum = self.sum.replace(Digest::ZERO, side);
        self.count += 1;
    }

    /// Adds the side that a fill settles. Other events settle none.
    fn fill(&mut self, e: &OrderEvent<'_>) {
        if let OrderEvent {
            event: Event::OrderFilled | Event::OrderPartiallyFilled,
            trade_id: Some(id),
            last_quantity,
            last_price_e4,
            ..
        } = e
        {
            self.add(id, last_quantity.unwrap_or(0), last_price_e4.unwrap_or(0));
        }
    }

    /// Adds the sides of a trade: two, unless one of them is the house.
    fn trade(&mut self, t: &Trade<'_>) {
        let house = [t.buyer, t.seller].iter().any(|u| u.starts_with("house:"));
        for _ in 0..if house { 1 } else { 2 } {
            self.add(t.trade_id, t.quantity, t.price_e4);
        }
    }
}

fn settled_once(trades: u64, traded: &TradeSides, settled: &TradeSides) -> Result<String, String> {
    if traded.count != settled.count {
        return Err(format!(
            "{} sides of {trades} trades, {} settled (equal at rest; the difference is on its way while roles run)",
            traded.count, settled.count
        ));
    }

    if traded.sum != settled.sum {
        return Err(format!(
            "{} sides of trades and as many fills, but they are not the same",
            traded.count
        ));
    }

    Ok(format!(
        "{trades} trades, each settled once at its quantity and price"
    ))
}

/// Recomputes every chain, and compares the payload hashes with the source records that still
/// exist.
fn audit(system: &Installation, tell: &mut dyn FnMut(Check)) -> Result<(), LogError> {
    let group = system.group(Role::Audit);
    let chains = Chains {
        log: &*system.log,
        topics: &system.topics,
        group: &group,
        sources: true,
        anchors: &[],
    };

    for chain in chains.verify(&mut |_| {})? {
        let detail = match &chain.damage {
            None => format!("{} records chained", chain.good.entries),
            Some(d) => format!("offset {}: {}: {}", d.offset, d.kind, d.text),
        };

        tell(Check {
            name: format!("audit {}", chain.name),
            ok: chain.damage.is_none(),
            detail,
        });
    }

    Ok(())
}
