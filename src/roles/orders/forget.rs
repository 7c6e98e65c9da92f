//! Ids that are forgotten. With a window (`--dedup-window`) what is known of an id goes away that long after it has ended: a queue holds what has ended, in
//! the order in which it did, and every record that is handled takes up to two off its front, so that it drains faster than it fills and no transaction
//! does much of it. Without a window nothing is queued and nothing costs anything.
//!
//! Time is the log's, as far as commands have told it. Executions do not count: they carry the time of their cause, which may be long ago when the book
//! was away for a while, and what ends late must not be forgotten at once.

use crate::engine::context::Ctx;
use crate::engine::role::Bug;
use crate::engine::varint::{put, put_bytes, put_signed, take_bytes, take_i64, take_u64};

use super::state::{self, Buffers};

/// How many ids a record takes off the queue; as many as a record can add, at most: its own and the order it is about.
const AT_ONCE: usize = 2;

/// The queue's ends: the rows from `first` on, `next` excluded, are there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ended {
    pub first: u64,
    pub next: u64,
    /// Latest log time of a command.
    pub now_ms: i64,
}

/// One of the queue: when it ended, whose it is, and which.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Row<'a> {
    pub time_ms: i64,
    pub user: &'a str,
    pub order_id: &'a str,
}

impl Ended {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put(out, self.first);
        put(out, self.next);
        put_signed(out, i128::from(self.now_ms));
    }

    pub(super) fn read(bytes: &[u8]) -> Option<Ended> {
        state::whole(bytes, |r| Some(Ended { first: take_u64(r)?, next: take_u64(r)?, now_ms: take_i64(r)? }))
    }
}

impl<'a> Row<'a> {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_signed(out, i128::from(self.time_ms));
        put_bytes(out, self.user.as_bytes());
        put_bytes(out, self.order_id.as_bytes());
    }

    pub(super) fn read(bytes: &'a [u8]) -> Option<Row<'a>> {
        let mut r = state::body(bytes)?;
        let time_ms = take_i64(&mut r)?;
        let (user, order_id) = (take_bytes(&mut r)?, take_bytes(&mut r)?);
        r.is_empty().then_some(())?;
        Some(Row { time_ms, user: std::str::from_utf8(user).ok()?, order_id: std::str::from_utf8(order_id).ok()? })
    }
}

/// After a record: `b.ended` joins the queue, and what has been in it for longer than the window is forgotten, a little at a time. `command`: it was one, so
/// time goes on.
pub(super) fn some(ctx: &mut Ctx<'_>, b: &mut Buffers, window_ms: i64, command: bool) -> Result<(), Bug> {
    let before = load(ctx)?;
    let mut ended = before;
    if command {
        ended.now_ms = ended.now_ms.max(ctx.time_ms());
    }
    let mut new = std::mem::take(&mut b.ended);
    for (user, order_id) in new.iter().flatten() {
        Row { time_ms: ended.now_ms.max(ctx.time_ms()), user, order_id }.write(b.fresh());
        row_key(b, ended.next);
        ctx.put(&b.key, &b.value);
        ended.next += 1;
    }
    new.iter_mut().for_each(Vec::clear);
    b.ended = new;
    let mut row = Vec::new();
    for _ in 0..AT_ONCE {
        if ended.first == ended.next {
            break;
        }
        row_key(b, ended.first);
        row.clear();
        row.extend_from_slice(ctx.get(&b.key).unwrap_or_default());
        let Row { time_ms, user, order_id } = Row::read(&row).ok_or_else(|| state::unreadable(ctx, "an id that has ended"))?;
        if time_ms.saturating_add(window_ms) > ended.now_ms {
            break;
        }
        ctx.delete(&b.key);
        state::delete_order(ctx, b, user, order_id)?;
        ended.first += 1;
    }
    if ended != before {
        ended.write(b.fresh());
        ctx.put(b"w", &b.value);
    }
    Ok(())
}

/// Whether this task has ever forgotten an id.
pub(super) fn has_forgotten(ctx: &mut Ctx<'_>) -> Result<bool, Bug> {
    Ok(load(ctx)?.first > 0)
}

fn load(ctx: &mut Ctx<'_>) -> Result<Ended, Bug> {
    Ok(state::load(ctx, b"w", "the ids that have ended", Ended::read)?.unwrap_or_default())
}

fn row_key(b: &mut Buffers, number: u64) {
    b.key(b'e', &number.to_string(), None);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Later versions must read what this one wrote.
    #[test]
    fn golden_bytes() {
        let ended = Ended { first: 1, next: 300, now_ms: 5 };
        let mut out = vec![1];
        ended.write(&mut out);
        assert_eq!(out, [1, 1, 0xac, 2, 10]);
        assert_eq!(Ended::read(&out), Some(ended));
        let row = Row { time_ms: 5, user: "u", order_id: "17" };
        let mut out = vec![1];
        row.write(&mut out);
        assert_eq!(out, [1, 10, 1, b'u', 2, b'1', b'7']);
        assert_eq!(Row::read(&out), Some(row));
        assert_eq!(Row::read(&out[..6]), None);
        assert_eq!(Row::read(&[&out[..], &[0]].concat()), None);
    }
}
