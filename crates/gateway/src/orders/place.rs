//! Writes a command, and waits for its answer.

use std::sync::Arc;
use std::time::Duration;

use os::clock::wall_ms;
use ports::partitioner;
use ports::records::HeaderBuf;
use ports::topics::TopicPartition;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use wire::topics::ORDER_COMMANDS;

use super::answer::CommandAnswer;
use super::command_draft::CommandDraft;
use crate::context::GatewayContext;
use crate::writer::{RecordWrite, Writer};

/// The end of a command, as far as the gateway knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    Answered(CommandAnswer),
    /// The command is in the log. No answer came in time, or none was wanted.
    Written,
    /// The log has not said whether the command is in it.
    Unknown,
    /// Nothing was written.
    Busy,
}

/// Writes a command and waits for its answer. The work goes on if the caller goes away.
pub(crate) async fn place(
    gateway: &Arc<GatewayContext>,
    writer: &Writer,
    draft: CommandDraft,
    timeout: Duration,
) -> Placed {
    let Ok(permit) = gateway.placing.clone().try_acquire_owned() else {
        return Placed::Busy;
    };

    let work = write_and_wait(gateway.clone(), writer.clone(), draft, timeout, permit);
    tokio::spawn(work).await.unwrap_or(Placed::Unknown)
}

async fn write_and_wait(
    gateway: Arc<GatewayContext>,
    writer: Writer,
    draft: CommandDraft,
    timeout: Duration,
    _permit: OwnedSemaphorePermit,
) -> Placed {
    let Some(partitions) = gateway.command_partitions else {
        return Placed::Busy;
    };

    let deadline = Instant::now() + timeout;
    let name = format!("{}/{}", draft.user, draft.id);
    let write = RecordWrite {
        at: TopicPartition::new(
            ORDER_COMMANDS,
            partitioner::partition(draft.user.as_bytes(), partitions),
        ),
        key: draft.user.clone(),
        value: Some(draft.value),
        headers: HeaderBuf::default(),
        time_ms: wall_ms(),
    };

    let wants_answer = draft.wants_answer;
    let work = async {
        if Instant::now() >= deadline {
            return Placed::Busy;
        }

        // Registered before the record is written, so that no answer can come in between.
        let symbol = draft.symbol.as_deref();
        let mut waiter = gateway.orders.wait_for(&draft.user, draft.awaited, symbol);
        let mut writing = std::pin::pin!(writer.write(write));
        let mut written = false;
        loop {
            tokio::select! {
                biased;
                Ok(answer) = &mut waiter.answer, if wants_answer => return Placed::Answered(answer),
                result = &mut writing, if !written => match result {
                    Ok(()) if wants_answer => written = true,
                    Ok(()) => return Placed::Written,
                    // The writer has logged the cause.
                    Err(_) => return Placed::Unknown,
                },
                () = tokio::time::sleep_until(deadline) => break,
                () = gateway.stopping() => break,
            }
        }

        if written {
            Placed::Written
        } else {
            Placed::Unknown
        }
    };

    gateway.commands_in_turn.with_user_lock(&name, work).await
}
