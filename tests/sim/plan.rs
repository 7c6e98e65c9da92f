//! The plan that a seed draws before the run: size of the system, its traffic, its faults and their
//! rates.

use std::cell::Cell;

use engine::pace::TransactionBounds;
use engine::restore::Standby;
use roles::Role;

use super::rng::Rng;
use super::timing::*;
use super::traffic::Heavy;

thread_local! {
    static UNTRANSACTED: Cell<bool> = const { Cell::new(false) };
}

/// Sets whether `orders` writes outside transactions in runs of this thread. The sequence guard
/// must then work: no other role may pass a repeat on, and roles may stop.
pub fn set_untransacted(on: bool) {
    UNTRANSACTED.set(on);
}

/// Rates of network faults per million requests, and of late markers per thousand transactions.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Faults {
    pub slow_ppm: u64,
    pub hold_ppm: u64,
    pub lost_ppm: u64,
    pub cut_ppm: u64,
    pub answer_lost_ppm: u64,
    pub late_markers: u64,
    /// Chance of a kill at each wait of a process.
    pub kill_ppm: u64,
    /// Rate of store writes without disk space, and of reads that find damage.
    pub disk_ppm: u64,
}

impl Faults {
    pub fn is_none(&self) -> bool {
        *self == Faults::default()
    }
}

/// Attacks of the nemesis.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Attack {
    Kill,
    PowerLoss,
    CleanStop,
    Freeze,
    Zombie,
    Copy,
    ScaleUp,
    ScaleDown,
    BrokerDown,
    BrokerFrozen,
    LeaderMove,
    TxnCoordinatorMove,
    GroupCoordinatorMove,
    Disconnect,
    ClockJump,
    DiskFull,
    Damage,
    Wipe,
    Compact,
    Retention,
    OffsetsBack,
    OffsetsForward,
    OffsetsLost,
    BrokerClock,
    NoLeader,
}

impl Attack {
    pub const ALL: [Attack; 25] = [
        Attack::Kill,
        Attack::PowerLoss,
        Attack::CleanStop,
        Attack::Freeze,
        Attack::Zombie,
        Attack::Copy,
        Attack::ScaleUp,
        Attack::ScaleDown,
        Attack::BrokerDown,
        Attack::BrokerFrozen,
        Attack::LeaderMove,
        Attack::TxnCoordinatorMove,
        Attack::GroupCoordinatorMove,
        Attack::Disconnect,
        Attack::ClockJump,
        Attack::DiskFull,
        Attack::Damage,
        Attack::Wipe,
        Attack::Compact,
        Attack::Retention,
        Attack::OffsetsBack,
        Attack::OffsetsForward,
        Attack::OffsetsLost,
        Attack::BrokerClock,
        Attack::NoLeader,
    ];

    /// Attacks that stop a role until an operator acts. These attacks are in fewer seeds; otherwise
    /// most seeds would idle through the other attacks.
    const STOPPING: [Attack; 4] = [
        Attack::OffsetsBack,
        Attack::OffsetsForward,
        Attack::OffsetsLost,
        Attack::NoLeader,
    ];

    fn permille(self) -> u64 {
        if Attack::STOPPING.contains(&self) {
            80
        } else {
            300
        }
    }
}

/// Draws the bounds of one transaction: mostly the bounds of the product, sometimes so small that
/// batches end early.
fn draw_bounds(rng: &mut Rng, record_bytes_max: Option<u32>) -> TransactionBounds {
    let usual = TransactionBounds::default();
    let most = record_bytes_max.map_or(usual.journal_part, |max| max as usize / 2);
    match rng.permille(300) {
        true => TransactionBounds {
            records: rng.skewed(1, 300) as usize,
            bytes: rng.skewed(200, 100_000) as usize,
            row_bytes: rng.skewed(100, 100_000) as usize,
            journal_part: (rng.skewed(100, 20_000) as usize).min(most),
        },
        false => TransactionBounds {
            journal_part: most,
            ..usual
        },
    }
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub partitions: u32,
    /// Role and instance number of each process at the start.
    pub processes: Vec<(Role, u32)>,
    /// End of all faults.
    pub heal_at: u64,
    pub faults: Faults,
    pub attacks: Vec<Attack>,
    /// Mean time between attacks.
    pub attack_every: u64,
    pub users: u64,
    pub symbols: u64,
    pub inputs: u64,
    pub batch_records: usize,
    pub cache_bytes: usize,
    pub tombstones_live: u64,
    /// Dedup window in milliseconds, if ids are forgotten.
    pub window_ms: Option<i64>,
    /// Kind of heavy traffic.
    pub heavy: Option<Heavy>,
    /// Record size limit of most topics, if the limit is small.
    pub record_bytes_max: Option<u32>,
    /// Limit for record times ahead of the broker's clock, if there is a limit.
    pub ahead_ms_max: Option<i64>,
    /// Bounds of one transaction.
    pub bounds: TransactionBounds,
    /// Tasks with standbys; an instance has standbys only in every other life.
    pub standby: Standby,
    /// Broker time for each record of a transaction, in microseconds.
    pub record_us: u64,
    /// True if `orders` writes outside transactions, to test the sequence guard.
    pub untransacted: bool,
}

const STANDBYS: [Standby; 4] = [
    Standby::None,
    Standby::None,
    Standby::Neighbours(1),
    Standby::All,
];

impl Plan {
    pub fn draw(rng: &mut Rng) -> Plan {
        let quiet = rng.below(24) == 0;
        let partitions = [1, 2, 2, 2, 3][rng.index(5)];
        let mut processes = Vec::new();
        let followers = [Role::Portfolio, Role::Notifications, Role::Audit];
        for role in Role::all() {
            let here = if followers.contains(&role) {
                rng.permille(400)
            } else {
                rng.permille(950)
            };

            let count = if here {
                [1, 1, 2, 2, 3][rng.index(5)]
            } else {
                0
            };

            processes.extend((1..=count).map(|n| (role, n)));
        }

        if !processes.iter().any(|(r, _)| *r == Role::Orders) {
            processes.push((Role::Orders, 1));
        }

        let heal_at = rng.between(3 * SECOND, 9 * SECOND);
        let mut some = |low: u64, high: u64| {
            if rng.permille(350) {
                rng.skewed(low, high)
            } else {
                0
            }
        };

        let mut faults = Faults {
            slow_ppm: some(2_000, 100_000),
            hold_ppm: some(2_000, 40_000),
            lost_ppm: some(500, 15_000),
            cut_ppm: some(500, 15_000),
            answer_lost_ppm: some(500, 15_000),
            late_markers: some(20, 800),
            kill_ppm: some(200, 6_000),
            disk_ppm: some(300, 8_000),
        };

        let mut attacks: Vec<Attack> = Attack::ALL
            .into_iter()
            .filter(|a| rng.permille(a.permille()))
            .collect();
        let untransacted = UNTRANSACTED.get();
        if untransacted {
            attacks = vec![Attack::Kill, Attack::Freeze];

            // Slow requests leave time for a kill between the outputs and the changelog record
            // about them.
            faults = Faults {
                kill_ppm: rng.skewed(2_000, 30_000),
                answer_lost_ppm: 5_000,
                slow_ppm: 200_000,
                ..Faults::default()
            };
        }

        let (mut heavy, mut record_bytes_max) = Heavy::draw(rng);
        let mut record_us = if heavy.is_some() && rng.permille(500) {
            rng.skewed(200, 10_000)
        } else {
            0
        };

        if untransacted {
            (heavy, record_bytes_max, record_us) = (None, None, 0);
        }

        let bounds = draw_bounds(rng, record_bytes_max);
        if quiet {
            (attacks, faults) = (Vec::new(), Faults::default());
        }

        Plan {
            partitions,
            processes,
            heal_at,
            faults,
            attacks,
            attack_every: rng.skewed(150 * MS, 2 * SECOND),
            users: rng.between(2, 6),
            symbols: rng.between(1, 3),
            inputs: rng.between(12, 60),
            batch_records: [1, 2, 5, 20, 100][rng.index(5)],
            cache_bytes: [0, 2_000, 1 << 20][rng.index(3)],
            tombstones_live: rng.between(300 * MS, 3 * SECOND),
            window_ms: rng.permille(400).then(|| rng.skewed(20, 4_000) as i64),
            heavy,
            record_bytes_max,
            ahead_ms_max: (!untransacted && rng.permille(100)).then_some(3_600_000),
            bounds,
            standby: STANDBYS[rng.index(4)],
            record_us,
            untransacted,
        }
    }
}
