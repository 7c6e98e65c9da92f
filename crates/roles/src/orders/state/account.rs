//! Encoding of an account.

use domain::account::Account;
use domain::rate_limit::{Messages, UserBucket};
use ports::varint::{put, put_signed, take_i64, take_signed, take_u64};

use super::{put_later, whole};

pub(super) fn put_account(out: &mut Vec<u8>, a: &Account) {
    for n in [a.available_e4, a.reserved_e4, a.incoming_e4, a.turnover_e4] {
        put_signed(out, i128::from(n));
    }

    put(out, a.user_seq);
    put_signed(out, i128::from(a.clock.tat_us));
    put_signed(out, i128::from(a.clock.last_seen_us));

    // Fields of newer versions, in the order in which versions added them.
    let m = a.messages;
    let later: [i128; 8] = [
        a.open_orders.into(),
        a.shorts.into(),
        a.unopened.into(),
        a.owed_e4.into(),
        m.clock.tat_us.into(),
        m.clock.last_seen_us.into(),
        m.told_ms.into(),
        m.unanswered.into(),
    ];

    let used = later
        .iter()
        .rposition(|n| *n != 0)
        .map_or(1, |last| last + 1);
    put_later(out, &later[..used]);
}

pub(in crate::orders) fn read_account(bytes: &[u8]) -> Option<Account> {
    whole(bytes, |r| {
        let mut a = Account {
            available_e4: take_i64(r)?,
            reserved_e4: take_i64(r)?,
            incoming_e4: take_i64(r)?,
            turnover_e4: take_i64(r)?,
            user_seq: take_u64(r)?,
            clock: UserBucket {
                tat_us: take_i64(r)?,
                last_seen_us: take_i64(r)?,
            },
            open_orders: 0,
            shorts: 0,
            unopened: false,
            owed_e4: 0,
            messages: Messages::default(),
        };

        let mut later = [0; 8];
        for slot in &mut later {
            if !r.is_empty() {
                *slot = take_signed(r)?;
            }
        }

        let [
            open_orders,
            shorts,
            unopened,
            owed,
            tat,
            seen,
            told,
            unanswered,
        ] = later;

        let count = |n| u64::try_from(n).ok();
        let signed = |n| i64::try_from(n).ok();
        (a.open_orders, a.shorts, a.unopened, a.owed_e4) = (
            count(open_orders)?,
            count(shorts)?,
            count(unopened)? != 0,
            signed(owed)?,
        );
        let clock = UserBucket {
            tat_us: signed(tat)?,
            last_seen_us: signed(seen)?,
        };

        a.messages = Messages {
            clock,
            told_ms: signed(told)?,
            unanswered: count(unanswered)?,
        };

        Some(a)
    })
}
