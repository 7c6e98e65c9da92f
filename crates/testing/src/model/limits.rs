//! Rate limits of the model: a bucket of time, from which each command takes its cost. (The product
//! instead keeps the moment at which the bucket is full again.)

use super::script::{Command, Dice, Kind};
use super::{Model, Told};

/// Cost of a command in microseconds, and the number of commands that may come at once.
#[derive(Clone, Copy, Debug)]
pub struct Limit {
    pub costs: i64,
    pub burst: i64,
}

#[derive(Clone, Debug, Default)]
pub struct Bucket {
    /// Level of the bucket in microseconds, and the time of that level; none before the first
    /// command.
    left: Option<(i64, i64)>,
}

/// Interval between two announced refusals, in milliseconds.
const TOLD_EVERY: i64 = 1_000;

impl Bucket {
    /// Takes the cost of one command, or returns the wait in milliseconds.
    pub fn take(&mut self, limit: Limit, now_ms: i64) -> Result<(), i64> {
        let now = now_ms * 1_000;
        let full = limit.costs * limit.burst;
        let (level, seen) = self.left.unwrap_or((full, now));

        // A clock was wrong. The level counts from now on, and suffices at least for this command.
        if seen - now > full.min(1_000_000) {
            self.left = Some((level.max(limit.costs) - limit.costs, now));
            return Ok(());
        }

        let at = seen.max(now);
        let level = full.min(level + at - seen);
        if level < limit.costs {
            let wait = limit.costs - level + at - now;
            return Err(wait / 1_000 + i64::from(wait % 1_000 > 0));
        }

        self.left = Some((level - limit.costs, at));
        Ok(())
    }
}

impl Model {
    /// Admits an order or a replace, or returns the wait.
    pub fn admit_order(&mut self, user: &str) -> Result<(), i64> {
        match self.orders_limit {
            Some(limit) => self
                .users
                .get_mut(user)
                .expect("seen")
                .orders
                .take(limit, self.now),
            None => Ok(()),
        }
    }

    /// Admits any other command of a client. A refusal carries the wait only if the refusal is
    /// announced.
    pub fn admit_message(
        &mut self,
        user: &str,
        kind: &Kind,
        fresh: bool,
    ) -> Result<(), Option<i64>> {
        let Some(limit) = self.messages_limit else {
            return Ok(());
        };

        let open = |symbol: &Option<String>| {
            let mine = |o: &&super::Order| {
                o.user == user && o.is_open() && symbol.as_ref().is_none_or(|s| *s == o.symbol)
            };

            self.orders.iter().any(|o| mine(&o))
        };

        let ends = fresh
            && match kind {
                Kind::Cancel { orig, .. } => self.find(user, orig).is_some_and(|o| o.is_open()),
                Kind::MassCancel { symbol, .. } => open(symbol),
                _ => false,
            };

        let now = self.now;
        let u = self.users.get_mut(user).expect("seen");
        let Err(wait) = u.messages.take(limit, now) else {
            return Ok(());
        };

        if ends {
            return Ok(());
        }

        if u.told
            .is_some_and(|told| (told..told + TOLD_EVERY).contains(&now))
        {
            u.unanswered += 1;
            return Err(None);
        }

        u.told = Some(now);
        Err(Some(wait))
    }

    /// Tells a user that the rate limit is exceeded.
    pub fn limited(&mut self, user: &str, id: &str, told: Told, wait: i64) {
        self.tell(
            user,
            Told {
                cause_id: id.into(),
                reason: "RATE_LIMITED",
                retry: Some(wait),
                ..told
            },
        );
    }
}

/// True if the command belongs in the topic of operators.
pub fn is_operators(kind: &Kind) -> bool {
    match kind {
        Kind::New { .. } | Kind::Replace { .. } => false,
        Kind::Cancel { operator, .. } | Kind::MassCancel { operator, .. } => *operator,
        Kind::Bust { .. } | Kind::Transfer { .. } | Kind::Later(_) => true,
    }
}

/// The same script with some commands sent many times at once, some of them under separate ids.
pub fn flooded(seed: u64, script: Vec<Command>) -> Vec<Command> {
    let mut d = Dice::new(seed ^ 0x666c_6f6f_6473);
    let mut all = Vec::new();
    for c in script {
        all.push(c.clone());
        if d.roll(8) > 0 {
            continue;
        }

        for n in 0..1 + d.roll(9) {
            match &c {
                Command::Order { user, id, kind }
                    if d.roll(2) == 0 && !matches!(kind, Kind::New { .. }) =>
                {
                    all.push(Command::Order {
                        user: user.clone(),
                        id: format!("{id}-{n}"),
                        kind: kind.clone(),
                    });
                }
                Command::Order { .. } | Command::Astray { .. } => all.push(c.clone()),
                _ => {}
            }
        }
    }

    all
}
