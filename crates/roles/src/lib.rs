//! The five roles. A role is a pure function over records and state. Its rules live in `domain`,
//! and the format of its records lives in `wire`. The engine calls roles and commits their output.
// clippy.toml lists the functions that would make a result depend on more than its records.
#![deny(clippy::disallowed_methods, clippy::disallowed_types)]
#![warn(unreachable_pub)]

mod audit;
mod decoded_table;
mod ingress;
mod notifications;
pub mod orders;
pub mod portfolio;
pub mod reconciliation;
mod settings;
pub mod show;
pub mod trading;

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use engine::broadcast::Tables;
use engine::role::{RoleFactory, RoleInput, RoleLogic as Logic, RoleSpec};
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicTable};
use ports::{Clock, Log, LogError};
use wire::{control, instrument, topics, trade};

pub use audit::EarlyLinks;
pub use settings::{LAST_IS_TOLD, MERGED_BY_LOG_TIME, RoleSettings};

/// A role by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Accounts: checks, duplicate ids, holds, settlement.
    Orders,
    /// Books and prices.
    Trading,
    /// Portfolios, computed from order events.
    Portfolio,
    /// Messages to users.
    Notifications,
    /// Hash chains over all public topics.
    Audit,
}

impl Role {
    /// All roles, in the order in which a record passes them.
    pub fn all() -> [Role; 5] {
        [
            Role::Orders,
            Role::Trading,
            Role::Portfolio,
            Role::Notifications,
            Role::Audit,
        ]
    }

    /// Name on the command line and in consumer group names.
    pub fn name(self) -> &'static str {
        match self {
            Role::Orders => "orders",
            Role::Trading => "trading",
            Role::Portfolio => "portfolio",
            Role::Notifications => "notifications",
            Role::Audit => "audit",
        }
    }

    /// Topics that the role reads, owns and writes.
    pub fn spec(self) -> RoleSpec {
        let base = RoleSpec {
            name: self.name(),
            inputs: self.inputs(),
            broadcasts: Vec::new(),
            guarded_outputs: Vec::new(),
            changelog: topics::AUDIT_CHANGELOG,
            journal: None,
            dead_letters: topics::DEAD_LETTERS,
            clock: None,
            linger: Duration::ZERO,
            headers: false,
        };

        match self {
            Role::Orders => RoleSpec {
                broadcasts: vec![
                    topics::INSTRUMENTS,
                    topics::REFERENCE_PRICES,
                    topics::CONTROLS,
                ],
                guarded_outputs: vec![topics::BOOK_COMMANDS, topics::ORDER_EVENTS],
                changelog: topics::ORDERS_CHANGELOG,
                journal: Some(topics::ORDERS_JOURNAL),
                ..base
            },
            Role::Trading => RoleSpec {
                broadcasts: vec![topics::INSTRUMENTS, topics::CONTROLS],
                guarded_outputs: vec![topics::EXECUTIONS],
                changelog: topics::TRADING_CHANGELOG,
                journal: Some(topics::TRADING_JOURNAL),
                clock: Some(topics::CLOCK),
                ..base
            },
            Role::Portfolio => RoleSpec {
                changelog: topics::PORTFOLIO_CHANGELOG,
                linger: Duration::from_millis(100),
                ..base
            },
            Role::Notifications => RoleSpec {
                changelog: topics::NOTIFICATIONS_CHANGELOG,
                ..base
            },
            Role::Audit => RoleSpec {
                linger: Duration::from_millis(100),
                headers: true,
                ..base
            },
        }
    }

    /// Topics that the role reads, in the order in which records of one time are processed.
    fn inputs(self) -> Vec<RoleInput> {
        let guarded = |topic| RoleInput {
            topic,
            guarded: true,
        };

        let open = |topic| RoleInput {
            topic,
            guarded: false,
        };

        match self {
            // Executions come first, because cash that they release may pay for orders of the same
            // batch. Deposits by operators come next, for the same reason.
            Role::Orders => vec![
                guarded(topics::EXECUTIONS),
                open(topics::OPERATOR_COMMANDS),
                open(topics::ORDER_COMMANDS),
            ],
            // Within one millisecond, prices come first, so an order trades at the latest price.
            // The clock comes next, so expired orders leave the book before new commands.
            Role::Trading => vec![
                open(topics::MARKET_DATA),
                open(topics::CLOCK),
                guarded(topics::BOOK_COMMANDS),
            ],
            Role::Portfolio | Role::Notifications => vec![guarded(topics::ORDER_EVENTS)],
            // The role reads the internal topics too, so that a lag of 0 of `audit` means that the
            // whole pipeline is at rest.
            Role::Audit => topics::AUDITED
                .into_iter()
                .chain([topics::BOOK_COMMANDS, topics::EXECUTIONS])
                .map(open)
                .collect(),
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Error for a name that belongs to no role.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "there is no role \"{0}\"; the roles are orders, trading, portfolio, notifications, audit (or all)"
)]
pub struct UnknownRole(pub String);

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(name: &str) -> Result<Self, UnknownRole> {
        Role::all()
            .into_iter()
            .find(|r| r.name() == name)
            .ok_or_else(|| UnknownRole(name.to_string()))
    }
}

/// Makes the logic of a role. `partitions` is the partition count of the topics whose count the
/// operator chooses.
pub fn factory(
    role: Role,
    settings: RoleSettings,
    topics: Arc<TopicTable>,
    partitions: u32,
) -> Box<dyn RoleFactory> {
    Box::new(Factory {
        role,
        spec: role.spec(),
        settings,
        topics,
        partitions,
        links: EarlyLinks::default(),
    })
}

/// Like [`factory`], for a replay. Chains that began under version 1 have version 1 links, up to
/// the entry at which version 2 took over.
pub fn replay_factory(
    role: Role,
    settings: RoleSettings,
    topics: Arc<TopicTable>,
    partitions: u32,
    links: EarlyLinks,
) -> Box<dyn RoleFactory> {
    Box::new(Factory {
        role,
        spec: role.spec(),
        settings,
        topics,
        partitions,
        links,
    })
}

struct Factory {
    role: Role,
    spec: RoleSpec,
    settings: RoleSettings,
    topics: Arc<TopicTable>,
    partitions: u32,
    links: EarlyLinks,
}

impl Factory {
    fn logic(&self, settings: &RoleSettings) -> Box<dyn Logic> {
        match self.role {
            Role::Orders => Box::new(orders::Orders::new(settings)),
            Role::Trading => Box::new(trading::Trading::new(settings)),
            Role::Portfolio => Box::<portfolio::PortfolioRole>::default(),
            Role::Notifications => Box::<notifications::Notifications>::default(),
            Role::Audit => Box::new(audit::AuditRole::new(self.links.clone())),
        }
    }
}

impl RoleFactory for Factory {
    fn spec(&self) -> &RoleSpec {
        &self.spec
    }

    fn make(&self, _task: u32) -> Box<dyn Logic> {
        self.logic(&self.settings)
    }

    fn make_unrecorded(&self, _task: u32) -> Box<dyn Logic> {
        self.logic(&self.settings.before_settings())
    }

    fn make_under(&self, settings: &[u8], _task: u32) -> Result<Box<dyn Logic>, String> {
        Ok(self.logic(&RoleSettings::decode(settings)?))
    }

    fn accepts_broadcast(&self, record: &Record<'_>) -> bool {
        match record.at.topic {
            topics::INSTRUMENTS => instrument::decode(record.key, record.value).is_ok(),
            topics::REFERENCE_PRICES => record
                .value
                .is_some_and(|v| trade::ReferencePrice::decode(v).is_ok()),
            topics::CONTROLS => control::decode(record.key, record.value).is_ok(),
            _ => true,
        }
    }

    fn seed_broadcast(
        &self,
        topic: TopicId,
        log: &dyn Log,
        clock: &dyn Clock,
        loaded: &Tables,
    ) -> Result<Records, LogError> {
        if self.role == Role::Orders && topic == topics::REFERENCE_PRICES {
            orders::seed::reference_prices(log, clock, loaded, &self.topics, self.partitions)
        } else {
            Ok(Records::new())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lead_back_and_others_are_explained() {
        for r in Role::all() {
            assert_eq!(r.name().parse(), Ok(r));
            assert_eq!(r.spec().name, r.name());
        }

        let e = "broker".parse::<Role>().expect_err("no such role");
        assert!(
            e.to_string()
                .contains("orders, trading, portfolio, notifications, audit")
        );
    }
}
