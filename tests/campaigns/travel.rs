//! Past states: for every role and on both logs, `replay --until` rebuilds exactly the state of
//! that time.

use std::collections::BTreeMap;

use engine::checkpoint::StoreMeta;
use engine::point_in_time::PointInTime;
use engine::replay::ReplayError;
use ports::StateStore;
use ports::topics::TopicPartition;
use processor::runtime::replay::newest_store;
use processor::runtime::travel::{kept_store, travel_task};
use roles::{Role, RoleSettings, show};
use wire::topics as t;

use crate::support::world::{PARTITIONS, World, on_both};

type Content = BTreeMap<Vec<u8>, Vec<u8>>;

fn content(store: &dyn StateStore) -> Content {
    let mut all = Content::new();
    store
        .scan(b"", &mut |k, v| {
            all.insert(k.to_vec(), v.to_vec());
            true
        })
        .expect("a scan");
    all
}

/// All state at rest, and its log time.
struct Snapshot {
    time_ms: i64,
    tasks: Vec<(Role, u32, StoreMeta, Content)>,
}

fn snapshot(w: &World) -> Snapshot {
    w.rest();
    let inputs = [t::ORDER_COMMANDS, t::MARKET_DATA, t::INSTRUMENTS];
    let time_ms = inputs
        .iter()
        .flat_map(|topic| w.read(*topic))
        .map(|r| r.time_ms)
        .max()
        .expect("records");
    let mut tasks = Vec::new();
    for role in Role::all() {
        for task in 0..PARTITIONS {
            if let Some((_, store, meta)) =
                newest_store(&w.system.state, role, task).expect("a store")
            {
                tasks.push((role, task, meta, content(&*store)));
            }
        }
    }

    // The next record must carry a later time.
    std::thread::sleep(std::time::Duration::from_millis(5));
    Snapshot { time_ms, tasks }
}

fn order(w: &mut World, user: &str, id: &str, quantity: u32, side: &str) {
    let value = format!(
        r#"{{"user_id":"{user}","order_id":"{id}","symbol":"AAPL","quantity":{quantity},"order_type":"{side}"}}"#
    );
    w.sender.send(t::ORDER_COMMANDS, user, value);
}

fn get(store: &dyn StateStore, role: Role, key: &str) -> Option<serde_json::Value> {
    let mut found = None;
    store
        .scan(&show::prefix(role, key), &mut |k, v| {
            let (shown, value) = show::show(role, k, v).expect("readable");
            found = (shown == key).then_some(value);
            found.is_none()
        })
        .expect("a scan");

    found
}

#[test]
fn every_moment_of_the_past_can_be_rebuilt() {
    on_both("travel", RoleSettings::default(), |w| {
        w.list("AAPL", "189.25");
        let mut snapshots = Vec::new();
        for round in 0..4 {
            for user in 0..9 {
                order(
                    w,
                    &format!("u{user}"),
                    &format!("b{round}"),
                    5 + round,
                    "buy",
                );

                if round > 1 {
                    order(w, &format!("u{user}"), &format!("s{round}"), 2, "sell");
                }
            }

            w.sender.flush();
            snapshots.push(snapshot(w));
        }

        let mut compared = 0;
        for (round, then) in snapshots.iter().enumerate() {
            let keep = tempfile::tempdir().expect("a directory");
            for (role, task, meta, content_then) in &then.tasks {
                let what = format!("{}: round {round}, {role} task {task}", w.name);
                let found = travel_task(
                    &w.system,
                    *role,
                    *task,
                    PointInTime::Time(then.time_ms),
                    Some(keep.path()),
                    &mut |_| {},
                );

                let found = found
                    .unwrap_or_else(|e| panic!("{what}: {e}"))
                    .expect("it has a past");
                assert_eq!(found.divergence, None, "{what}");
                assert_eq!(found.meta.digest, meta.meta.digest, "{what}");
                assert_eq!(found.meta.offsets, meta.meta.offsets, "{what}: positions");
                if let Some(transaction) = found.transaction {
                    assert_eq!(transaction, meta.meta.transaction, "{what}");
                }

                let (_, kept, _) = kept_store(keep.path(), *role, *task)
                    .expect("readable")
                    .expect("it was kept");
                assert!(
                    content(&kept) == *content_then,
                    "{what}: the content differs"
                );
                compared += 1;
            }
        }

        assert!(compared > 40, "{compared}");
        at_a_record(w);
        not_yet(w);
    });
}

/// After a command, its order exists and waits for the execution. After the command before, the
/// order does not exist.
fn at_a_record(w: &World) {
    let commands: Vec<_> = w
        .read(t::ORDER_COMMANDS)
        .into_iter()
        .filter(|r| r.text("user_id") == "u3" && r.text("order_id") == "b3")
        .collect();
    let [command] = &commands[..] else {
        panic!("one command")
    };

    let at = TopicPartition::new(t::ORDER_COMMANDS, command.partition);
    let keep = tempfile::tempdir().expect("a directory");
    let found = travel_task(
        &w.system,
        Role::Orders,
        at.partition,
        PointInTime::Record(at, command.offset),
        Some(keep.path()),
        &mut |_| {},
    );

    let found = found.expect("it can be rebuilt").expect("it has a past");
    assert!(
        found.meta.next(at).expect("an input") > command.offset,
        "{:?}",
        found.meta
    );
    let (_, kept, meta) = kept_store(keep.path(), Role::Orders, at.partition)
        .expect("readable")
        .expect("it was kept");
    assert_eq!(meta.expect("a meta record").meta, found.meta);
    let order = get(&kept, Role::Orders, "order/u3/b3").expect("the order is there");
    assert_eq!(
        (order["quantity"].as_i64(), order["symbol"].as_str()),
        (Some(8), Some("AAPL"))
    );
    let first = PointInTime::Record(at, 0);
    let keep = tempfile::tempdir().expect("a directory");
    travel_task(
        &w.system,
        Role::Orders,
        at.partition,
        first,
        Some(keep.path()),
        &mut |_| {},
    )
    .expect("the first command")
    .expect("a past");

    let (_, kept, _) = kept_store(keep.path(), Role::Orders, at.partition)
        .expect("readable")
        .expect("it was kept");
    assert_eq!(get(&kept, Role::Orders, "order/u3/b3"), None);

    // A role without a journal, stopped at an event: the state includes this event, but not the
    // next.
    let events = w.events("u3");
    let middle = &events[events.len() / 2];
    let at = TopicPartition::new(t::ORDER_EVENTS, middle.partition);
    let keep = tempfile::tempdir().expect("a directory");
    let found = travel_task(
        &w.system,
        Role::Portfolio,
        at.partition,
        PointInTime::Record(at, middle.offset),
        Some(keep.path()),
        &mut |_| {},
    );

    assert_eq!(
        found
            .expect("it can be rebuilt")
            .expect("a past")
            .meta
            .next(at),
        Some(middle.offset + 1)
    );

    let (_, kept, _) = kept_store(keep.path(), Role::Portfolio, at.partition)
        .expect("readable")
        .expect("it was kept");
    let portfolio = get(&kept, Role::Portfolio, "portfolio/u3").expect("there is one");
    assert_eq!(
        portfolio["user_seq"].as_i64(),
        Some(middle.number("user_seq"))
    );
}

fn not_yet(w: &World) {
    let at = TopicPartition::new(t::ORDER_COMMANDS, 0);
    let refused = |role, moment| match travel_task(&w.system, role, 0, moment, None, &mut |_| {}) {
        Err(ReplayError::Moment(text)) => text,
        other => panic!("{other:?}"),
    };

    assert!(refused(Role::Orders, PointInTime::Record(at, 1 << 40)).contains("not been reached"));
    assert!(
        refused(Role::Trading, PointInTime::Record(at, 0))
            .contains("no input of trading task 0; its inputs are")
    );
}
