//! Faults beside the network: processes, brokers, machines, clocks. And the end of all faults.

use ports::topics::TopicPartition;
use roles::Role;

use super::cluster::coordinator::{Txn, TxnState};
use super::cluster::group::GroupState;
use super::cluster::net::Owner;
use super::cluster::{BROKERS, INSTANCES, Place};
use super::coverage::Kind;
use super::operator::Move;
use super::plan::Attack;
use super::timing::*;
use super::world::{Action, Event, Life, World};

impl World {
    /// Runs one attack, and schedules the next.
    pub fn nemesis(&mut self) -> Action {
        if self.healed {
            return Action::None;
        }

        let gap = self.rng.between(1, self.plan.attack_every * 2);
        self.schedule(self.now + gap, Event::Nemesis);
        let attack = self.plan.attacks[self.rng.index(self.plan.attacks.len())];
        self.trace(|| format!("nemesis: {attack:?}"));
        self.attack(attack)
    }

    fn some_process(&mut self, fits: impl Fn(&super::world::Process) -> bool) -> Option<usize> {
        let all: Vec<usize> = (0..self.processes.len())
            .filter(|i| fits(&self.processes[*i]))
            .collect();
        if all.is_empty() {
            None
        } else {
            Some(all[self.rng.index(all.len())])
        }
    }

    fn running(&mut self) -> Option<usize> {
        self.some_process(|p| p.life == Life::Running && !p.frozen)
    }

    fn attack(&mut self, attack: Attack) -> Action {
        match attack {
            Attack::Kill | Attack::PowerLoss => {
                let Some(p) = self.some_process(|p| p.life == Life::Running) else {
                    return Action::None;
                };

                self.cover(Kind::Kill);
                if attack == Attack::PowerLoss {
                    // All other processes on the same machine.
                    let disk = self.processes[p].disk;
                    let others: Vec<usize> = (0..self.processes.len())
                        .filter(|o| *o != p && self.processes[*o].disk == disk)
                        .collect();
                    for o in others
                        .into_iter()
                        .filter(|o| self.processes[*o].life == Life::Running)
                        .collect::<Vec<_>>()
                    {
                        self.processes[o].doomed = true;

                        // A frozen process dies too. A frozen process that survives would later
                        // continue over a changed disk.
                        self.processes[o].frozen = false;
                        self.wake(o, 0);
                    }

                    self.lose_power(p);
                }

                self.trace(|| format!("process {p} is killed"));
                return self.put_down(p);
            }
            Attack::CleanStop => {
                let Some(p) = self.running() else {
                    return Action::None;
                };

                self.processes[p].asked_to_stop = true;
            }
            Attack::Freeze | Attack::Zombie => {
                let Some(p) = self.running() else {
                    return Action::None;
                };

                let zombie = attack == Attack::Zombie;
                let time = if zombie {
                    self.rng.between(SESSION, 4 * SECOND)
                } else {
                    self.rng.skewed(20 * MS, SESSION)
                };

                self.cover(if zombie {
                    Kind::LongFreeze
                } else {
                    Kind::Freeze
                });

                self.freeze(p, time);
            }
            Attack::Copy => self.copy(),
            Attack::ScaleUp => {
                let role = self.roles[self.rng.index(self.roles.len())];
                self.scale_up(role);
            }
            Attack::ScaleDown => {
                let alone = |w: &World, p: &super::world::Process| {
                    w.processes
                        .iter()
                        .filter(|o| o.role == p.role && o.life != Life::Gone)
                        .count()
                        < 2
                };

                let many: Vec<usize> = (0..self.processes.len())
                    .filter(|i| {
                        self.processes[*i].life == Life::Running
                            && !alone(self, &self.processes[*i])
                    })
                    .collect();
                if many.is_empty() {
                    return Action::None;
                }

                let p = many[self.rng.index(many.len())];
                self.cover(Kind::ScaleDown);
                let action = self.put_down(p);
                self.processes[p].life = Life::Gone;
                return action;
            }
            Attack::BrokerDown => self.broker_down(),
            Attack::BrokerFrozen => {
                let b = self.rng.index(BROKERS);
                let time = self.rng.skewed(20 * MS, 1_500 * MS);
                self.cluster.brokers[b].frozen_until = self.now + time;
                self.cover(Kind::BrokerFrozen);
            }
            Attack::LeaderMove => {
                let share = self.rng.between(50, 600);
                for i in 0..self.cluster.all().len() {
                    if self.rng.permille(share) {
                        self.move_leader(i);
                    }
                }
            }
            Attack::TxnCoordinatorMove => {
                let p = self.rng.index(self.processes.len());
                let txn = self.processes[p].role as usize * INSTANCES
                    + self.processes[p].instance as usize;
                self.move_coordinator(txn);
            }
            Attack::GroupCoordinatorMove => {
                let p = self.rng.index(self.processes.len());
                let group = self.processes[p].role as usize;
                self.move_group(group);
            }
            Attack::Disconnect => {
                let Some(p) = self.running() else {
                    return Action::None;
                };

                let of_process = |w: &World, o: Owner| match o {
                    Owner::Consumer(c) => w.consumers[c].process == p,
                    Owner::Producer(_) => true,
                };

                let open: Vec<usize> = (0..self.connections.len())
                    .filter(|i| {
                        self.connections[*i].open && of_process(self, self.connections[*i].owner)
                    })
                    .collect();
                for c in open {
                    if self.rng.permille(400) {
                        self.cut(c);
                    }
                }
            }
            Attack::ClockJump => {
                let b = self.rng.index(BROKERS);
                let far = [100, 5_000, 3_600_000, 86_400_000][self.rng.index(4)];
                let jump = self.rng.below(far) as i64;
                self.cluster.brokers[b].skew_ms = if self.rng.permille(500) { jump } else { -jump };
                let p = self.rng.index(self.processes.len());
                self.processes[p].wall_skew_ms = jump;
                self.cover(Kind::ClockJump);
            }
            Attack::DiskFull => {
                let d = self.rng.index(self.disks.len());
                let time = self.rng.skewed(50 * MS, SECOND);
                self.disks[d].full_until = self.now + time;
            }
            Attack::Damage => {
                let d = self.rng.index(self.disks.len());
                let which = self.rng.index(64);

                // A process with an open store knows its digest by arithmetic, and relies on the
                // checksums of the disk. So only an unused disk gets a bit flip.
                if self.disks[d].holder.is_none() && self.disks[d].flip(which) {
                    self.trace(|| format!("a bit flips on disk {d}"));
                    self.cover(Kind::DamageSilent);
                } else if let Some(task) = self.disks[d].tasks.keys().next().copied() {
                    self.disks[d].damage(task);
                }
            }
            Attack::Wipe => {
                let d = self.rng.index(self.disks.len());
                if self.disks[d].holder.is_none() && !self.disks[d].tasks.is_empty() {
                    self.disks[d].tasks.clear();
                    self.cover(Kind::StoreWiped);
                } else if let Some(holder) = self.disks[d].holder {
                    // An operator deletes the state of a process that was just killed.
                    self.disks[d].tasks.clear();
                    self.cover(Kind::StoreWiped);
                    return self.put_down(holder);
                }
            }
            Attack::Compact => self.compact(),
            Attack::Retention => self.retention(),
            Attack::BrokerClock => {
                // The clock is far ahead for a moment, then as before.
                let b = self.rng.index(BROKERS);
                let skew_ms = self.cluster.brokers[b].skew_ms;
                let far = self.rng.skewed(60_000, 400 * 86_400_000) as i64;
                let time = self.rng.skewed(MS, SECOND);
                self.cluster.brokers[b].skew_ms = skew_ms + far;
                self.schedule(self.now + time, Event::ClockRight { broker: b, skew_ms });
                self.trace(|| {
                    format!(
                        "the clock of broker {b} jumps {far} ms ahead for {} ms",
                        time / MS
                    )
                });

                self.cover(Kind::BrokerClock);
            }
            Attack::NoLeader => {
                let role = self.roles[self.rng.index(self.roles.len())];
                let time = self.rng.skewed(100 * MS, 5 * SECOND);
                self.lose_a_leader(role, time);
            }
            Attack::OffsetsBack => self.attack_offsets(Move::Back),
            Attack::OffsetsForward => self.attack_offsets(Move::Forward),
            Attack::OffsetsLost => self.attack_offsets(Move::Lost),
        }

        Action::None
    }

    pub fn freeze(&mut self, p: usize, time: u64) {
        let life = self.processes[p].lives;
        self.processes[p].frozen = true;
        self.trace(|| format!("process {p} stands still for {} ms", time / MS));
        self.schedule(self.now + time, Event::Thaw { process: p, life });
    }

    fn lose_power(&mut self, p: usize) {
        let disk = self.processes[p].disk;
        let tasks: Vec<u32> = self.disks[disk].tasks.keys().copied().collect();
        for task in tasks {
            let batches = self.rng.index(5);
            if self.disks[disk]
                .tasks
                .get_mut(&task)
                .is_some_and(|f| f.lose_tail(batches))
            {
                self.trace(|| format!("disk {disk} loses up to {batches} batches of task {task}"));
                self.cover(Kind::PowerLoss);
            }
        }
    }

    /// In the middle of a restore: sometimes the process dies at this point, and a bit of its store
    /// flips.
    pub fn unverified(&mut self, process: usize) {
        if !self.healed && self.plan.attacks.contains(&Attack::Damage) && self.rng.permille(200) {
            let disk = self.processes[process].disk;
            let which = self.rng.index(64);
            if self.disks[disk].flip(which) {
                self.trace(|| format!("a bit flips on disk {disk}"));
                self.cover(Kind::DamageSilent);
            }

            self.processes[process].doomed = true;
        }
    }

    /// Starts the same instance a second time, on the same machine or on another.
    fn copy(&mut self) {
        if self.processes.len() > 12 {
            return;
        }

        let Some(p) = self.some_process(|p| p.life != Life::Gone) else {
            return;
        };

        let role = self.processes[p].role;
        let instance = self.processes[p].instance;
        let disk = self.processes[p].disk;
        let here = self.rng.permille(500);
        let copy = self.add_process(role, instance, here.then_some(disk));
        self.cover(Kind::Copy);
        self.schedule(self.now, Event::Start(copy));
    }

    /// Moves partitions while the last transaction on a changelog is not readable yet. The case is
    /// rare by chance, so the nemesis forces it.
    pub fn hand_over_now(&mut self, group: usize, place: &Place, delay: u64) {
        let role = Role::all()[group];
        let changelog = matches!(place, Place::Partition(at) if at.topic == role.spec().changelog);
        if !self.healed
            && changelog
            && delay > 250 * MS
            && self.plan.attacks.contains(&Attack::ScaleUp)
            && self.rng.permille(300)
        {
            self.scale_up(role);
        }
    }

    /// Moves the leader of a changelog just before the changelog is read. The nemesis forces this
    /// too.
    pub fn new_leaders(&mut self, group: usize) {
        if !self.healed && self.plan.attacks.contains(&Attack::LeaderMove) && self.rng.permille(200)
        {
            let changelog = Role::all()[group].spec().changelog;
            for i in 0..self.cluster.all().len() {
                if self.cluster.all()[i].at.topic == changelog {
                    self.move_leader(i);
                }
            }
        }
    }

    fn scale_up(&mut self, role: Role) {
        let taken: Vec<u32> = self
            .processes
            .iter()
            .filter(|p| p.role == role)
            .map(|p| p.instance)
            .collect();
        let Some(free) = (1..5).find(|n| !taken.contains(n)) else {
            // A removed instance returns with its old state.
            if let Some(p) = (0..self.processes.len())
                .find(|i| self.processes[*i].role == role && self.processes[*i].life == Life::Gone)
            {
                self.processes[p].life = Life::Down;
                self.schedule(self.now, Event::Start(p));
            }

            return;
        };

        let new = self.add_process(role, free, None);
        self.cover(Kind::ScaleUp);
        self.schedule(self.now, Event::Start(new));
    }

    fn broker_down(&mut self) {
        let b = self.rng.index(BROKERS);
        if self.cluster.brokers.iter().filter(|b| b.up).count() < BROKERS {
            return;
        }

        self.cover(Kind::BrokerDown);
        self.cluster.brokers[b].up = false;
        let time = self.rng.skewed(50 * MS, 2 * SECOND);
        self.schedule(self.now + time, Event::BrokerUp(b));

        // Its leaderships move to the other brokers, some later than others and some never.
        for i in 0..self.cluster.all().len() {
            if self.cluster.all()[i].leader == b && self.rng.permille(900) {
                self.move_leader(i);
            }
        }

        for txn in 0..self.cluster.txns.len() {
            if self.cluster.txns[txn].broker == b {
                self.move_coordinator(txn);
            }
        }

        for group in 0..self.cluster.groups.len() {
            if self.cluster.groups[group].broker == b {
                self.move_group(group);
            }
        }

        let open: Vec<usize> = (0..self.connections.len())
            .filter(|c| self.connections[*c].open && self.connections[*c].broker == b)
            .collect();
        open.into_iter().for_each(|c| self.cut(c));
    }

    /// All processes of a role restart while one of their changelog partitions has no leader. The
    /// other tasks must continue.
    ///
    /// The attack is skipped while a transaction of such an instance is open on that partition. The
    /// instance must end this transaction first, and would be blocked, as in Kafka.
    fn lose_a_leader(&mut self, role: Role, time: u64) {
        let at = TopicPartition::new(
            role.spec().changelog,
            self.rng.below(u64::from(self.plan.partitions)) as u32,
        );
        let part = self.cluster.part(at);
        let ids = role as usize * INSTANCES..(role as usize + 1) * INSTANCES;
        let under_way =
            |t: &Txn| (t.left > 0 || t.state == TxnState::Ongoing) && t.partitions.contains(&at);
        if part.stable_end() != part.end() || self.cluster.txns[ids].iter().any(under_way) {
            return;
        }

        self.put_all_down(role);
        self.cluster.part_mut(at).no_leader_until = self.now + time;
        self.trace(|| format!("{at:?} has no leader for {} ms", time / MS));
        self.cover(Kind::NoLeader);
    }

    /// Sets the limit for record times ahead of the broker's clock, in topics with producer
    /// timestamps.
    pub fn bound_times(&mut self, ahead_ms_max: Option<i64>) {
        self.cluster
            .all_mut()
            .iter_mut()
            .for_each(|p| p.ahead_ms_max = ahead_ms_max);
    }

    /// A record is refused for its time. Later an operator learns of the refusal and removes the
    /// limit.
    pub fn refuse_a_time(&mut self) {
        self.cover(Kind::InvalidTimestamp);
        if !std::mem::replace(&mut self.times_refused, true) {
            let delay = self.rng.skewed(SECOND, 8 * SECOND);
            self.schedule(self.now + delay, Event::TimeBoundsLifted);
        }
    }

    fn another_broker(&mut self, than: usize) -> usize {
        let to = (than + 1 + self.rng.index(BROKERS - 1)) % BROKERS;
        if self.cluster.brokers[to].up {
            to
        } else {
            (0..BROKERS)
                .find(|b| *b != than && self.cluster.brokers[*b].up)
                .unwrap_or(than)
        }
    }

    fn move_leader(&mut self, i: usize) {
        let to = self.another_broker(self.cluster.all()[i].leader);
        let behind = self.rng.below(6);
        let time = self.rng.skewed(5 * MS, 600 * MS);
        let now = self.now;
        let p = &mut self.cluster.all_mut()[i];
        p.leader = to;

        // The new leader learns the high watermark only with the next fetch of a follower.
        p.short = Some((now + time, p.end().saturating_sub(behind)));
        let at = p.at;
        self.cover(Kind::LeaderMove);
        self.readable(at);
    }

    fn move_coordinator(&mut self, txn: usize) {
        let to = self.another_broker(self.cluster.txns[txn].broker);
        let time = self.rng.skewed(MS, 300 * MS);
        let t = &mut self.cluster.txns[txn];
        (t.broker, t.loading_until) = (to, self.now + time);
        self.cover(Kind::TxnCoordinatorMove);
    }

    fn move_group(&mut self, group: usize) {
        let to = self.another_broker(self.cluster.groups[group].broker);
        let time = self.rng.skewed(MS, 300 * MS);
        let now = self.now;
        let g = &mut self.cluster.groups[group];
        (g.broker, g.loading_until) = (to, now + time);

        // A new coordinator gives every member a fresh session.
        g.seats.values_mut().for_each(|s| s.seen = now + time);
        self.cover(Kind::GroupCoordinatorMove);
    }

    /// The lowest committed offset of all groups that read a partition.
    fn read_by_all(&self, at: TopicPartition) -> u64 {
        let mut least = u64::MAX;
        for role in &self.roles {
            if role.spec().inputs.iter().any(|i| i.topic == at.topic) {
                least = least.min(
                    self.cluster.groups[*role as usize]
                        .offsets
                        .get(&at)
                        .copied()
                        .unwrap_or(0),
                );

                // Offsets moved forward by an operator do not show the real progress of a reader.
                if let Some(oracle) = self.oracle.role(*role).filter(|_| !self.plan.untransacted) {
                    least = least.min(oracle.read_to(at));
                }
            }
        }

        least
    }

    fn compact(&mut self) {
        for i in 0..self.cluster.all().len() {
            let p = &self.cluster.all()[i];
            if !p.compacted || p.end() == 0 {
                continue;
            }

            // The newest segment is never compacted. Unread records of a group are kept, which
            // makes the reader's input certain.
            let limit = p.end().saturating_sub(self.rng.below(5));
            let at = p.at;
            let limit = limit.min(self.read_by_all(at));
            let now = self.now;
            let live = self.plan.tombstones_live;
            let (records, tombstones) = self.cluster.all_mut()[i].compact(limit, now, live);
            if records > 0 {
                self.cover(Kind::Compacted);
            }

            if tombstones > 0 {
                self.cover(Kind::TombstoneExpired);
            }
        }
    }

    fn retention(&mut self) {
        for i in 0..self.cluster.all().len() {
            let at = self.cluster.all()[i].at;
            if at.topic == wire::topics::MARKET_DATA {
                let read = self.read_by_all(at);
                if read != u64::MAX && read > 0 && self.cluster.all_mut()[i].truncate_start(read) {
                    self.cover(Kind::Retention);
                }
            }
        }
    }

    /// Ends all faults. The system must now continue and come to rest.
    pub fn heal(&mut self) {
        self.healed = true;
        self.trace(|| "the last fault is over".to_string());
        self.plan.faults = super::plan::Faults::default();
        for b in &mut self.cluster.brokers {
            (b.up, b.frozen_until) = (true, b.frozen_until.min(self.now));
        }

        for d in &mut self.disks {
            d.full_until = 0;
        }

        for p in 0..self.processes.len() {
            self.processes[p].doomed = false;
            if self.processes[p].frozen {
                let life = self.processes[p].lives;
                self.schedule(self.now, Event::Thaw { process: p, life });
            }
        }

        while self.left_to_send > 0 {
            self.input();
            self.left_to_send -= 1;
        }

        // The last attack: one task cannot be restored for a long time. All other tasks must
        // continue.
        if self.plan.attacks.contains(&Attack::NoLeader) {
            let role = self.roles[self.rng.index(self.roles.len())];
            self.lose_a_leader(role, SILENCE_MAX + 5 * SECOND);
        }

        self.schedule(self.now + 250 * MS, Event::Look);
    }

    /// Restarts each role without any process.
    fn somebody_for_each_role(&mut self) {
        for role in self.roles.clone() {
            let there = self
                .processes
                .iter()
                .any(|p| p.role == role && p.life != Life::Gone);
            if !there
                && let Some(p) = (0..self.processes.len()).find(|i| self.processes[*i].role == role)
            {
                self.processes[p].life = Life::Down;
                self.schedule(self.now, Event::Start(p));
            }
        }
    }

    /// True if all inputs are read, all transactions are decided, and all processes run.
    pub fn at_rest(&mut self) -> bool {
        self.somebody_for_each_role();
        self.unrest().is_empty()
    }

    /// The first activity that still prevents rest; empty at rest.
    pub fn unrest(&self) -> String {
        for (i, p) in self.processes.iter().enumerate() {
            if p.life == Life::Down
                || p.life == Life::Running && !["running", "joining"].contains(&p.phase)
            {
                return format!("process {i} ({}-{}) is {}", p.role, p.instance, p.phase);
            }
        }

        for role in &self.roles {
            let g = &self.cluster.groups[*role as usize];
            if matches!(g.state, GroupState::Preparing(_)) || !g.pending.is_empty() {
                return format!("the group of {role} is being rebalanced, or has pending offsets");
            }

            let tasks: usize = self
                .processes
                .iter()
                .filter(|p| p.role == *role && p.life == Life::Running)
                .map(|p| p.tasks)
                .sum();
            if tasks != self.cluster.counts[role.spec().changelog.0 as usize] as usize {
                return format!("{tasks} tasks of {role} run");
            }

            for (topic, count) in &g.inputs {
                for n in 0..*count {
                    let at = TopicPartition::new(*topic, n);
                    let oracle = self.oracle.role(*role).filter(|_| !self.plan.untransacted);
                    let read = oracle.map_or_else(
                        || g.offsets.get(&at).copied().unwrap_or(0),
                        |o| o.read_to(at),
                    );
                    if self.cluster.part(at).anything_from(read) {
                        return format!("{role} has not read {}", self.table.show(at));
                    }
                }
            }
        }

        for p in self.cluster.all() {
            if p.stable_end() != p.end() {
                return format!("a transaction is open in {}", self.table.show(p.at));
            }
        }

        if let Some((role, task)) = self.unstored() {
            return format!("no running {role} holds task {task} at its last transaction");
        }

        String::new()
    }

    /// A process has ended by itself.
    pub fn ended(&mut self, process: usize, ended: super::process::Ended) {
        use super::process::Ended;
        use engine::instance::FatalError;
        self.trace(|| format!("process {process} has ended: {ended:?}"));
        let p = &self.processes[process];
        let role = p.role;
        let instance = p.instance;
        let lives = p.lives;
        let unguarded = self.plan.untransacted;
        let mut away = false;
        match ended {
            Ended::Asked => self.cover(Kind::CleanStop),
            Ended::Stopped(FatalError::Fenced(_)) => {
                // The process that took the place runs or has run. The supervisor of the ended
                // process leaves the work to that process.
                away = self.processes.iter().enumerate().any(|(i, o)| {
                    i != process && o.role == role && o.instance == instance && o.life != Life::Gone
                });
            }
            Ended::Stopped(FatalError::Failed(why)) => self.trace(|| why),
            Ended::Stopped(FatalError::Bug(_)) if self.may_stop_over_offsets(role) => {
                self.call_an_operator(role)
            }
            // The guard stops instances before money moves on a wrong basis. Such a stop is the
            // purpose of the guard.
            Ended::Stopped(_) if unguarded => {
                self.guard.1 += 1;
                away = true;
            }
            // Records were refused for their time; an operator will remove the limit.
            Ended::Stopped(FatalError::Refused(why))
                if self.times_refused && why.contains("InvalidTimestamp") =>
            {
                self.cover(Kind::StoppedOverTimes)
            }
            Ended::Stopped(FatalError::Bug(why) | FatalError::Refused(why)) => self.violated(
                format!("stopped by an invariant of its own: {role}-{instance}: {why}"),
            ),
            Ended::Stopped(FatalError::Invalid(why)) => {
                // Two processes of the same instance share a store, and one held it too long. One
                // of the two processes is superfluous.
                if !why.starts_with("held by") {
                    self.violated(format!("{role}-{instance} stopped: {why}"));
                }

                away = true;
            }
            Ended::Panicked(text) => self.violated(format!("{role}-{instance} panicked: {text}")),
        }

        self.put_down(process);
        if away {
            self.processes[process].life = Life::Gone;
        }

        let _ = (Role::all(), lives);
    }
}
