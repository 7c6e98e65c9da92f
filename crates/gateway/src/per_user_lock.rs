//! Serialises the changes of a user's subscriptions, so that no other change of this gateway comes
//! between the check of a limit and the write. Gateways do not wait for each other: a user can exceed a limit by as
//! many changes as there are gateways.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

type PerUserLock = Arc<tokio::sync::Mutex<()>>;

/// One lock for each user with a change under way.
#[derive(Debug, Default)]
pub(crate) struct PerUserLocks {
    users: Mutex<BTreeMap<String, PerUserLock>>,
}

impl PerUserLocks {
    /// Runs `work` after all earlier changes of this user have ended.
    pub(crate) async fn with_user_lock<T>(&self, user: &str, work: impl Future<Output = T>) -> T {
        // Declared first and therefore dropped last, also if the caller drops this future early.
        let _forget = RemoveIfUnused { turns: self, user };
        let turn = self
            .users
            .lock()
            .expect("plain data")
            .entry(user.to_string())
            .or_default()
            .clone();

        let _mine = turn.lock_owned().await;
        work.await
    }
}

struct RemoveIfUnused<'a> {
    turns: &'a PerUserLocks,
    user: &'a str,
}

impl Drop for RemoveIfUnused<'_> {
    fn drop(&mut self) {
        let mut users = self.turns.users.lock().expect("plain data");
        if users
            .get(self.user)
            .is_some_and(|turn| Arc::strong_count(turn) == 1)
        {
            users.remove(self.user);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    #[tokio::test]
    async fn one_at_a_time_per_user_and_nobody_is_remembered() {
        let turns = PerUserLocks::default();
        let inside = Cell::new(0);
        let most = Cell::new(0);
        let one = |user| {
            turns.with_user_lock(user, async {
                inside.set(inside.get() + 1);
                most.set(most.get().max(inside.get()));
                tokio::task::yield_now().await;
                inside.set(inside.get() - 1);
            })
        };

        tokio::join!(one("501"), one("501"), one("501"));
        assert_eq!(most.get(), 1);
        tokio::join!(one("501"), one("502"));
        assert_eq!(most.get(), 2, "others need not wait");
        {
            let mut left =
                std::pin::pin!(turns.with_user_lock("501", std::future::pending::<()>()));
            tokio::select! {
                biased;
                () = &mut left => unreachable!("it has no end"),
                () = std::future::ready(()) => {}
            }
        }

        assert_eq!(turns.users.lock().expect("plain").len(), 0);
    }
}
