//! Operators' mistakes, one after the other, chosen by a seed. Each mistake is made on the running
//! system during the storm. The system must react as documented, and the instruction in its message
//! must repair the mistake.

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use client::simulate::Rng;
use ports::topics::{TopicId, TopicPartition};
use rdkafka::admin::{AdminClient, AdminOptions, GroupResult};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use roles::Role;
use wire::topics as t;

use crate::crew::Expected;
use crate::nemesis::{Counts, is_lull_near, ms};
use crate::silence::Whom;
use crate::site::Site;

const BUG: i32 = 70;
const CONFIG: i32 = 78;
/// Time limit of all waits. Brokers are sometimes away for a minute, and sessions end after ten
/// seconds.
const PATIENCE: Duration = Duration::from_secs(240);
const ROLES: [&str; 5] = ["orders", "trading", "portfolio", "notifications", "audit"];

pub struct Mistakes {
    rng: Rng,
    next: Instant,
    /// Kinds that are still to come. Each kind comes once before any kind comes again.
    left: Vec<u64>,
    pub counts: Counts,
}

/// The error of a mistake with a wrong reaction.
type Answered = Result<(), String>;

const KINDS: u64 = 7;

impl Mistakes {
    pub fn new(seed: u64) -> Mistakes {
        let next = Instant::now() + Duration::from_secs(15);
        Mistakes {
            rng: Rng::new(seed ^ 0x6f_70_73),
            next,
            left: Vec::new(),
            counts: Counts::new(),
        }
    }

    /// Makes the next mistake if its time has come; returns after its repair.
    pub fn tend(&mut self, site: &mut Site<'_>) {
        if Instant::now() < self.next || is_lull_near(site.began.elapsed()) {
            return;
        }

        if self.left.is_empty() {
            self.left = (0..KINDS).collect();
        }

        let kind = self
            .left
            .swap_remove(self.rng.below(self.left.len() as u64) as usize);
        let role = ROLES[self.rng.below(ROLES.len() as u64) as usize];
        let (name, whom) = match kind {
            0 => ("group deleted", Whom::Role(role)),
            1 => ("offsets reset to earlier", Whom::Role(role)),
            2 => ("repair of a running role", Whom::Role("none")),
            3 => ("state of another instance", Whom::Role("none")),
            4 => ("min.insync.replicas too high", Whom::All),
            5 => ("retention on a topic", Whom::All),
            _ => ("clients' timestamps", Whom::All),
        };

        site.say(&format!("mistake: {name} ({role})"));
        *self.counts.entry(name).or_default() += 1;
        let trouble = site.troubles.begin(name, whom);
        let answered = match kind {
            0 => group_deleted(site, role),
            1 => offsets_reset(site, role),
            2 => busy_repair(site, role),
            3 => foreign_state(site, &mut self.rng),
            4 => in_sync_too_high(site, &mut self.rng),
            5 => refused_at_the_start(site, &mut self.rng),
            _ => clients_timestamps(site),
        };

        site.crew.start_the_expected();
        ROLES
            .into_iter()
            .for_each(|role| site.crew.release_if_down(role));
        site.troubles.end(trouble);
        match answered {
            Ok(()) => site.say(&format!("put right: {name} ({role})")),
            Err(why) => site.crew.findings.push(format!(
                "the mistake `{name}` ({role}) was not answered as documented: {why}"
            )),
        }

        self.next = Instant::now() + ms(&mut self.rng, 15_000, 35_000);
    }
}

fn role_of(name: &str) -> Role {
    Role::all()
        .into_iter()
        .find(|r| r.name() == name)
        .expect("a role")
}

fn client(brokers: &str) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("socket.timeout.ms", "10000")
        .set("log_level", "0");
    config
}

/// Environment variable that tells a restarted copy of this program to delete a group: brokers and
/// group.
const DELETE_GROUP: &str = "STORM_DELETE_GROUP";

/// Deletes the group if this process was started for that; true if the group is gone.
pub fn deletes_a_group() -> Option<bool> {
    let text = std::env::var(DELETE_GROUP).ok()?;
    let (brokers, group) = text.split_once(' ')?;
    let admin: AdminClient<DefaultClientContext> =
        client(brokers).create().expect("an admin client");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let done = runtime.block_on(admin.delete_groups(&[group], &AdminOptions::new()));

    // Already gone: the answer to an earlier request was lost.
    let gone =
        |one: &GroupResult| matches!(one, Ok(_) | Err((_, RDKafkaErrorCode::GroupIdNotFound)));
    Some(done.is_ok_and(|all| all.iter().all(gone)))
}

/// Stops all instances of a role.
fn take_down(site: &mut Site<'_>, role: &'static str) -> Answered {
    site.crew.keep_down(role);
    site.until("the role is down", PATIENCE, |s| s.crew.is_down(role))
}

/// For a role, a deleted group looks the same as a group that was idle for a week.
fn group_deleted(site: &mut Site<'_>, role: &'static str) -> Answered {
    take_down(site, role)?;
    let group = format!("{}processor-{role}", site.installation.prefix);
    let direct = site.direct.clone();

    // Static members stay until their session ends. The deletion runs in a separate process,
    // because librdkafka sometimes aborts (an assertion in rd_kafka_enq_once_del_source_return) if
    // the coordinator moves during this request.
    site.aside("the group is deleted", move || {
        let me = std::env::current_exe().expect("this program");
        let done = Command::new(me)
            .env(DELETE_GROUP, format!("{direct} {group}"))
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .status();
        done.is_ok_and(|status| status.success())
    })?;

    let before = said(site, role);
    site.crew.release(role);
    site.until("somebody says that the offsets were gone", PATIENCE, |s| {
        said(s, role).iter().any(|(log, bytes)| {
            let from = before
                .iter()
                .find(|(l, _)| l == log)
                .map_or(0, |(_, b)| b.len());
            String::from_utf8_lossy(bytes.get(from..).unwrap_or_default())
                .contains("the group has no committed offsets here")
        })
    })
}

/// The logs of a role's instances.
fn said(site: &Site<'_>, role: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let paths = (1..=3).map(|instance| site.installation.log_of(role, instance));
    paths
        .filter_map(|path| std::fs::read(&path).ok().map(|bytes| (path, bytes)))
        .collect()
}

fn offsets_reset(site: &mut Site<'_>, role: &'static str) -> Answered {
    take_down(site, role)?;
    let group = format!("{}processor-{role}", site.installation.prefix);
    let topic = role_of(role).spec().inputs[0].topic;
    let at: Vec<_> = (0..site.partitions)
        .map(|p| TopicPartition::new(topic, p))
        .collect();
    let log = site.log.clone();
    let asked = group.clone();
    let mut committed = Vec::new();
    site.until("the group's offsets", PATIENCE, |_| {
        committed = log.group_offsets(&asked, &at).unwrap_or_default();
        !committed.is_empty()
    })?;

    // Back by one, or to the beginning.
    let mut earlier = TopicPartitionList::new();
    let name = t::table(&site.installation.prefix).name(topic).to_string();
    for (p, offset) in committed
        .into_iter()
        .enumerate()
        .filter_map(|(p, o)| Some((p, o.filter(|o| *o > 1)?)))
    {
        let offset = if p % 2 == 0 { offset as i64 - 1 } else { 0 };
        earlier
            .add_partition_offset(&name, p as i32, Offset::Offset(offset))
            .map_err(|e| e.to_string())?;
    }

    if earlier.count() == 0 {
        // The role has hardly begun.
        site.crew.release(role);
        return Ok(());
    }

    let consumer: BaseConsumer = client(&site.direct)
        .set("group.id", &group)
        .create()
        .expect("a consumer");
    site.aside("the offsets are reset", move || {
        consumer.commit(&earlier, CommitMode::Sync).is_ok()
    })?;

    expect(
        site,
        Some(role),
        BUG,
        "state and committed offsets do not belong together",
    );
    site.crew.release(role);
    site.until("an instance refuses to run", PATIENCE, met)?;
    take_down(site, role)?;
    site.crew.expected = None;

    // As the message says. The command waits for dead members; brokers may be away.
    let repair = ["repair", "offsets", "--role", role];
    site.until_command("the offsets are repaired", &repair, |code, _| {
        code == Some(0)
    })?;

    site.crew.release(role);
    Ok(())
}

fn expect(site: &mut Site<'_>, role: Option<&'static str>, code: i32, text: &'static str) {
    site.crew.expected = Some(Expected {
        role,
        code,
        text,
        met: Default::default(),
    });
}

fn met(site: &mut Site<'_>) -> bool {
    site.crew
        .expected
        .as_ref()
        .is_some_and(|e| !e.met.is_empty())
}

/// The command must tell the operator to stop the role first, and change no offsets. There are two
/// exceptions: brokers do not answer, or all instances were out of their group for longer than a
/// session. In the second case the repair takes over the instances' memberships. An instance that
/// returns meanwhile is fenced, or fences the repair.
fn busy_repair(site: &mut Site<'_>, role: &'static str) -> Answered {
    let (code, text) = site.command(&["repair", "offsets", "--role", role])?;
    site.crew.places_were_taken(role);
    match code {
        Some(CONFIG) if text.contains("Nothing was changed") && text.contains("stop") => Ok(()),
        Some(0 | 1) => Ok(()),
        Some(75) if text.contains("fenced by a newer instance") => Ok(()),
        _ => Err(format!("{code:?}: {text}")),
    }
}

/// A copy of a running instance's state is torn or old. The instance catches up from the changelog,
/// or puts the copy aside and rebuilds its state.
fn foreign_state(site: &mut Site<'_>, rng: &mut Rng) -> Answered {
    let role = ["orders", "trading"][rng.below(2) as usize];
    site.crew.give_state_of((role, 1), (role, 2));
    Ok(())
}

/// Like Kafka's own tool, which leaves the other settings of a topic unchanged.
fn alter(
    site: &mut Site<'_>,
    topic: TopicId,
    setting: &'static str,
    value: &'static str,
) -> Answered {
    let log = site.log.clone();
    site.aside("a topic's setting is changed", move || {
        log.alter_topic(topic, &[(setting, value)]).is_ok()
    })
}

fn fix(site: &mut Site<'_>) -> Answered {
    let partitions = site.partitions.to_string();
    site.until_command(
        "the topics are put right",
        &["topics", "create", "--partitions", &partitions, "--fix"],
        |code, _| code == Some(0),
    )
}

/// As many as there are replicas. While any broker is away, no producer can write to the topic.
fn in_sync_too_high(site: &mut Site<'_>, rng: &mut Rng) -> Answered {
    let topic = [
        t::ORDERS_CHANGELOG,
        t::TRADING_CHANGELOG,
        t::AUDIT_CHANGELOG,
    ][rng.below(3) as usize];
    alter(site, topic, "min.insync.replicas", "3")?;
    let until = Instant::now() + ms(rng, 5_000, 15_000);
    site.until("a while", PATIENCE, |_| Instant::now() >= until)?;
    site.until_command(
        "`topics check` names it",
        &["topics", "check"],
        |code, text| code == Some(0) && text.contains("min.insync.replicas"),
    )?;
    fix(site)
}

/// Running roles continue. Starting roles refuse, and name the remedy.
fn refused_at_the_start(site: &mut Site<'_>, rng: &mut Rng) -> Answered {
    let topic = [t::ORDER_EVENTS, t::EXECUTIONS, t::BOOK_COMMANDS][rng.below(3) as usize];
    expect(site, None, CONFIG, "retention.ms");
    alter(site, topic, "retention.ms", "604800000")?;
    let mut killed = Instant::now() - PATIENCE;
    site.until("an instance refuses to start", PATIENCE, |s| {
        if killed.elapsed() > Duration::from_secs(30) {
            killed = Instant::now();
            ["orders", "trading", "audit"]
                .into_iter()
                .for_each(|role| s.crew.kill9((role, 1)));
        }

        met(s)
    })?;

    put_right_and_start(site)
}

/// Running roles stop at the first record with a timestamp chosen by its client. Such records are
/// no orders and become dead letters.
fn clients_timestamps(site: &mut Site<'_>) -> Answered {
    expect(site, None, CONFIG, "message.timestamp.type");
    alter(
        site,
        t::ORDER_COMMANDS,
        "message.timestamp.type",
        "CreateTime",
    )?;
    site.until("an instance stops", PATIENCE, met)?;
    put_right_and_start(site)
}

fn put_right_and_start(site: &mut Site<'_>) -> Answered {
    fix(site)?;

    // An instance that checked before the repair ends a moment later.
    let until = Instant::now() + Duration::from_secs(10);
    site.until("a while", PATIENCE, |_| Instant::now() >= until)?;
    site.crew.start_the_expected();
    Ok(())
}
