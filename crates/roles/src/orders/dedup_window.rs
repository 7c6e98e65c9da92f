//! The dedup window (`--dedup-window`). The record of an id is deleted one window after the id has
//! ended. A queue holds ended ids in the order of their ends. A command adds a time mark to the
//! queue, and deletes up to two due ids from the front. A command brings at most one id that will
//! end later. So the queue drains faster than it fills, and each transaction does little work.
//! Without a window, the queue stays empty and costs nothing.
//!
//! Time is the log time of commands, unless the command's own timestamp contradicts log time (too
//! old or too new). So a broker clock that is ahead for a moment neither deletes ids too early nor
//! blocks the queue until that time. The time of an execution is the time of its cause, which may
//! be long ago after an outage. An id that ends late must not be deleted at once. So ids that ended
//! since the last mark count from the next mark.

use engine::context::Ctx;
use engine::role::InvariantViolation;
use ports::varint::{put, put_bytes, put_signed, take_bytes, take_i64, take_u64};

use super::state::{self, OrdersBuffers};

/// Maximum of ids that one command deletes.
const AT_ONCE: usize = 2;
/// Distance of marks, or a sixteenth of the window if that is less.
const MARK_MS: i64 = 1_000;

/// Ends of both queues, in row numbers: rows from `first` to `next` exist, `next` excluded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct ExpiryQueue {
    pub first: u64,
    pub next: u64,
    /// The same ends for the queue of marks.
    pub first_mark: u64,
    pub next_mark: u64,
    /// Rows below this number are covered by a mark.
    pub marked: u64,
    /// Time of the last mark.
    pub marked_ms: i64,
}

/// An ended id in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpiryRow<'a> {
    pub user: &'a str,
    pub order_id: &'a str,
}

/// Mark: ids with numbers below `below` had ended by `time_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ExpiryMark {
    pub below: u64,
    pub time_ms: i64,
}

impl ExpiryQueue {
    fn write(&self, out: &mut Vec<u8>) {
        [
            self.first,
            self.next,
            self.first_mark,
            self.next_mark,
            self.marked,
        ]
        .into_iter()
        .for_each(|n| put(out, n));

        put_signed(out, i128::from(self.marked_ms));
    }

    pub(super) fn read(bytes: &[u8]) -> Option<ExpiryQueue> {
        state::whole(bytes, |r| {
            let mut n = || take_u64(r);
            let first = n()?;
            let next = n()?;
            let first_mark = n()?;
            let next_mark = n()?;
            let marked = n()?;
            Some(ExpiryQueue {
                first,
                next,
                first_mark,
                next_mark,
                marked,
                marked_ms: take_i64(r)?,
            })
        })
    }
}

impl<'a> ExpiryRow<'a> {
    fn write(&self, out: &mut Vec<u8>) {
        put_bytes(out, self.user.as_bytes());
        put_bytes(out, self.order_id.as_bytes());
    }

    pub(super) fn read(bytes: &'a [u8]) -> Option<ExpiryRow<'a>> {
        let mut r = state::body(bytes)?;
        let user = take_bytes(&mut r)?;
        let order_id = take_bytes(&mut r)?;
        r.is_empty().then_some(ExpiryRow {
            user: std::str::from_utf8(user).ok()?,
            order_id: std::str::from_utf8(order_id).ok()?,
        })
    }
}

impl ExpiryMark {
    fn write(&self, out: &mut Vec<u8>) {
        put(out, self.below);
        put_signed(out, i128::from(self.time_ms));
    }

    pub(super) fn read(bytes: &[u8]) -> Option<ExpiryMark> {
        state::whole(bytes, |r| {
            Some(ExpiryMark {
                below: take_u64(r)?,
                time_ms: take_i64(r)?,
            })
        })
    }
}

/// Runs after each record whose time is not trusted: queues the ids that ended with the record.
pub(super) fn queue_ended(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
) -> Result<(), InvariantViolation> {
    if b.ended.is_empty() {
        return Ok(());
    }

    let before = load(ctx)?;
    let mut queue = before;
    add_ended(ctx, b, &mut queue);
    save(ctx, b, before, queue);
    Ok(())
}

/// Runs after each command whose log time is trusted: queues the ids that ended with the command,
/// sets a mark if one is due, and deletes a few due ids. `falls`: a mark more than one window ahead
/// of now came from a wrong clock, and counts from now on.
pub(super) fn queue_and_expire(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    window_ms: i64,
    falls: bool,
) -> Result<(), InvariantViolation> {
    let before = load(ctx)?;
    let mut queue = before;
    add_ended(ctx, b, &mut queue);

    let now_ms = ctx.time_ms();
    let latest_ms = if falls {
        now_ms.saturating_add(window_ms)
    } else {
        i64::MAX
    };

    let is_due = now_ms >= queue.marked_ms.saturating_add(MARK_MS.min(window_ms / 16))
        || queue.marked_ms > latest_ms;
    if queue.next > queue.marked && is_due {
        ExpiryMark {
            below: queue.next,
            time_ms: now_ms,
        }
        .write(b.fresh());
        put_row(ctx, b, b'm', queue.next_mark);
        (queue.marked, queue.marked_ms) = (queue.next, now_ms);
        queue.next_mark += 1;
    }

    let by_ms = now_ms.saturating_sub(window_ms);
    for _ in 0..AT_ONCE {
        if !forget_one(ctx, b, &mut queue, by_ms, latest_ms)? {
            break;
        }
    }

    save(ctx, b, before, queue);
    Ok(())
}

/// Adds the ids that ended with the current record.
fn add_ended(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, queue: &mut ExpiryQueue) {
    for (user, order_id) in std::mem::take(&mut b.ended) {
        ExpiryRow {
            user: &user,
            order_id: &order_id,
        }
        .write(b.fresh());
        put_row(ctx, b, b'e', queue.next);
        queue.next += 1;
    }
}

/// Saves the ends of the queues, if they changed.
fn save(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, before: ExpiryQueue, queue: ExpiryQueue) {
    if queue != before {
        queue.write(b.fresh());
        ctx.put(b"w", &b.value);
    }
}

/// Deletes the oldest id if the id had ended by `by_ms`. A mark after `latest_ms` is set to now.
fn forget_one(
    ctx: &mut Ctx<'_>,
    b: &mut OrdersBuffers,
    ended: &mut ExpiryQueue,
    by_ms: i64,
    latest_ms: i64,
) -> Result<bool, InvariantViolation> {
    if ended.first >= ended.marked {
        return Ok(false);
    }

    let mark = state::load(
        ctx,
        row_key(b, b'm', ended.first_mark),
        "a mark",
        ExpiryMark::read,
    )?;
    let ExpiryMark { below, time_ms } = mark.ok_or_else(|| state::unreadable(ctx, "a mark"))?;
    if time_ms > latest_ms {
        ExpiryMark {
            below,
            time_ms: ctx.time_ms(),
        }
        .write(b.fresh());
        put_row(ctx, b, b'm', ended.first_mark);
    }

    if time_ms > by_ms {
        return Ok(false);
    }

    let row = ctx
        .get(row_key(b, b'e', ended.first))
        .unwrap_or_default()
        .to_vec();
    let ExpiryRow { user, order_id } =
        ExpiryRow::read(&row).ok_or_else(|| state::unreadable(ctx, "an id that has ended"))?;
    if !state::delete_order(ctx, b, user, order_id)? {
        return Ok(false);
    }

    ctx.delete(row_key(b, b'e', ended.first));
    ended.first += 1;
    if ended.first >= below {
        ctx.delete(row_key(b, b'm', ended.first_mark));
        ended.first_mark += 1;
    }

    Ok(true)
}

/// True if this task has ever deleted an id.
pub(super) fn has_forgotten(ctx: &mut Ctx<'_>) -> Result<bool, InvariantViolation> {
    Ok(load(ctx)?.first > 0)
}

fn load(ctx: &mut Ctx<'_>) -> Result<ExpiryQueue, InvariantViolation> {
    Ok(state::load(ctx, b"w", "the ids that have ended", ExpiryQueue::read)?.unwrap_or_default())
}

fn row_key(b: &mut OrdersBuffers, letter: u8, number: u64) -> &[u8] {
    b.key(letter, &number.to_string(), None)
}

/// Writes the value buffer to a row.
fn put_row(ctx: &mut Ctx<'_>, b: &mut OrdersBuffers, letter: u8, number: u64) {
    row_key(b, letter, number);
    ctx.put(&b.key, &b.value);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden bytes: later versions must read the bytes of this version.
    #[test]
    fn golden_bytes() {
        let ended = ExpiryQueue {
            first: 1,
            next: 300,
            first_mark: 2,
            next_mark: 3,
            marked: 4,
            marked_ms: 5,
        };

        let mut out = vec![1];
        ended.write(&mut out);
        assert_eq!(out, [1, 1, 0xac, 2, 2, 3, 4, 10]);
        assert_eq!(ExpiryQueue::read(&out), Some(ended));
        let row = ExpiryRow {
            user: "u",
            order_id: "17",
        };

        let mut out = vec![1];
        row.write(&mut out);
        assert_eq!(out, [1, 1, b'u', 2, b'1', b'7']);
        assert_eq!(ExpiryRow::read(&out), Some(row));
        assert_eq!(
            (
                ExpiryRow::read(&out[..5]),
                ExpiryRow::read(&[&out[..], &[0]].concat())
            ),
            (None, None)
        );
        let mark = ExpiryMark {
            below: 300,
            time_ms: 5,
        };

        let mut out = vec![1];
        mark.write(&mut out);
        assert_eq!(
            (&out[..], ExpiryMark::read(&out)),
            (&[1, 0xac, 2, 10][..], Some(mark))
        );
    }
}
