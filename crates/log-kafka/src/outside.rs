//! Queries for operators: the members of a group, and the age of the open transaction that holds
//! back records.

use std::time::{Duration, Instant};

use ports::LogError;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::bad_config;
use super::config::KafkaSettings;
use super::stale_requests::Quiet;
use super::watchdog;

/// Longest wait for the record at the stable end. A report must not take long for a detail.
const RECORD_WAIT: Duration = Duration::from_secs(3);

/// The members of a group. The query goes to all brokers, as in `fence_diagnosis`.
pub(super) fn members(settings: &KafkaSettings, group: &str) -> Result<Vec<String>, LogError> {
    let _guard = watchdog::exit_after(
        "asking for a group's members",
        settings.request_wait * 2 + settings.stuck_after,
    );
    let client: BaseConsumer<Quiet> = settings
        .inquirer(None, false)
        .create_with_context(Quiet)
        .map_err(|e| bad_config(&e))?;
    let deadline = Instant::now() + settings.request_wait;
    let answer = loop {
        match client
            .client()
            .fetch_group_list(Some(group), settings.request_wait)
        {
            Ok(list) => break list,
            // A moving coordinator reports its state and works again after a moment.
            Err(e) if Instant::now() >= deadline => {
                return Err(LogError::Unavailable(format!(
                    "members of group {group}: {e}"
                )));
            }
            Err(_) => std::thread::sleep(Duration::from_millis(200)),
        }
    };

    let found = answer
        .groups()
        .iter()
        .filter(|g| g.name() == group && !matches!(g.state(), "Empty" | "Dead"));
    let all = found
        .flat_map(|g| {
            g.members()
                .iter()
                .map(|m| format!("{} at {}", m.id(), m.client_host()))
        })
        .collect();

    watchdog::drop_aside("closing a client", client);
    Ok(all)
}

/// The time in ms of a record that committed readers do not see yet.
pub(super) fn time_of(
    settings: &KafkaSettings,
    topic: &str,
    partition: u32,
    offset: u64,
) -> Result<Option<i64>, LogError> {
    let _guard = watchdog::exit_after(
        "looking behind the stable end",
        RECORD_WAIT * 2 + settings.stuck_after,
    );
    let mut config = settings.reader(1);
    config.set("isolation.level", "read_uncommitted");
    let client: BaseConsumer<Quiet> = config
        .create_with_context(Quiet)
        .map_err(|e| bad_config(&e))?;
    let mut list = TopicPartitionList::new();
    let unavailable = |e| LogError::Unavailable(format!("reading {topic}: {e}"));
    let place = i64::try_from(offset).map_or(Offset::End, Offset::Offset);
    list.add_partition_offset(topic, partition as i32, place)
        .map_err(unavailable)?;
    client.assign(&list).map_err(unavailable)?;
    let deadline = Instant::now() + RECORD_WAIT;
    let mut found = None;
    while found.is_none() && Instant::now() < deadline {
        if let Some(Ok(record)) = client.poll(Duration::from_millis(100)) {
            found = record.timestamp().to_millis();
        }
    }

    watchdog::drop_aside("closing a client", client);
    Ok(found)
}
