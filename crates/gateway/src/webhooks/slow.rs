//! Slots for slow requests, with a bound for all users together and a bound for each user. So a few
//! users with endpoints that never answer cannot take all slots.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Slots of all users.
const ALL_MAX: u32 = 256;
/// Slots of one user.
const USER_MAX: u32 = 2;

/// The slots in use.
#[derive(Default)]
pub(crate) struct Places(Mutex<SlowSlots>);

#[derive(Default)]
struct SlowSlots {
    all: u32,
    by_user: BTreeMap<String, u32>,
}

/// A slot in use, freed by its drop.
pub(super) struct SlowSlot<'a> {
    places: &'a Places,
    user: String,
}

impl Places {
    /// Takes a slot for a request of this user; `None` if no slot is free.
    pub(super) fn take(&self, user: &str) -> Option<SlowSlot<'_>> {
        let mut taken = self.lock();
        let own = taken.by_user.get(user).copied().unwrap_or(0);
        if taken.all >= ALL_MAX || own >= USER_MAX {
            return None;
        }

        taken.all += 1;
        taken.by_user.insert(user.into(), own + 1);
        Some(SlowSlot {
            places: self,
            user: user.into(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, SlowSlots> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for SlowSlot<'_> {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        taken.all -= 1;
        if let Some(own) = taken.by_user.get_mut(&self.user) {
            *own -= 1;
            if *own == 0 {
                taken.by_user.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_user_takes_all_places_and_places_come_back() {
        let places = Places::default();
        let thief: Vec<_> = (0..10).filter_map(|_| places.take("thief")).collect();
        assert_eq!(thief.len() as u32, USER_MAX);
        let others: Vec<_> = (0..ALL_MAX)
            .filter_map(|n| places.take(&n.to_string()))
            .collect();
        assert_eq!(others.len() as u32, ALL_MAX - USER_MAX);
        drop(thief);
        assert!(places.take("late").is_some());
        drop(others);
        let taken = places.lock();
        assert_eq!((taken.all, taken.by_user.len()), (0, 0));
    }
}
