//! The five roles. Each is a pure function over records and state; what they decide lives in
//! `domain`, how records look in `wire`, and who calls them and commits is the engine's business.
// clippy.toml lists what would make a result depend on more than its records.
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

pub use audit::EarlyLinks;
use engine::broadcast::Tables;
use engine::role::{RoleFactory, RoleInput, RoleLogic as Logic, RoleSpec};
use ports::records::{Record, Records};
use ports::topics::{TopicId, TopicTable};
use ports::{Clock, Log, LogError};
pub use settings::{LAST_IS_TOLD, MERGED_BY_LOG_TIME, RoleSettings};
use wire::{control, instrument, topics, trade};

/// A role by name.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Role {
    /// Accounts: checks, duplicates, funds, settlement.
    Orders,
    /// Books and prices.
    Trading,
    /// Portfolios, folded from order events.
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

    /// The name on the command line and in group names.
    pub fn name(self) -> &'static str {
        match self {
            Role::Orders => "orders",
            Role::Trading => "trading",
            Role::Portfolio => "portfolio",
            Role::Notifications => "notifications",
            Role::Audit => "audit",
        }
    }

    /// The topics that the role reads, owns and writes.
    pub fn spec(self) -> RoleSpec {
        let guarded = |topic| RoleInput {
            topic,
            guarded: true,
        };

        let open = |topic| RoleInput {
            topic,
            guarded: false,
        };

        let base = RoleSpec {
            name: self.name(),
            inputs: Vec::new(),
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
            // Executions first: the money they give back may pay for the orders of the same batch.
            // Then the desk's deposits, for the same reason.
            Role::Orders => RoleSpec {
                inputs: vec![
                    guarded(topics::EXECUTIONS),
                    open(topics::OPERATOR_COMMANDS),
                    open(topics::ORDER_COMMANDS),
                ],
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
            // Of the same millisecond, prices come first: an order trades at the latest price that
            // is here. Then the clock: expired orders are out of the way.
            Role::Trading => RoleSpec {
                inputs: vec![
                    open(topics::MARKET_DATA),
                    open(topics::CLOCK),
                    guarded(topics::BOOK_COMMANDS),
                ],
                broadcasts: vec![topics::INSTRUMENTS, topics::CONTROLS],
                guarded_outputs: vec![topics::EXECUTIONS],
                changelog: topics::TRADING_CHANGELOG,
                journal: Some(topics::TRADING_JOURNAL),
                clock: Some(topics::CLOCK),
                ..base
            },
            Role::Portfolio => RoleSpec {
                inputs: vec![guarded(topics::ORDER_EVENTS)],
                changelog: topics::PORTFOLIO_CHANGELOG,
                linger: Duration::from_millis(100),
                ..base
            },
            Role::Notifications => RoleSpec {
                inputs: vec![guarded(topics::ORDER_EVENTS)],
                changelog: topics::NOTIFICATIONS_CHANGELOG,
                ..base
            },
            // The internal topics are read so that the lag of `audit` says whether everything has
            // come to rest.
            Role::Audit => RoleSpec {
                inputs: topics::AUDITED
                    .into_iter()
                    .chain([topics::BOOK_COMMANDS, topics::EXECUTIONS])
                    .map(open)
                    .collect(),
                linger: Duration::from_millis(100),
                headers: true,
                ..base
            },
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that is no role's.
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

/// Makes the logic of a role. `partitions`: how many partitions the topics with a chosen number
/// have.
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

/// The same to do again what was done before: chains that began under version 1 have links of that
/// version up to where they went on under version 2.
pub fn factory_of_past(
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
