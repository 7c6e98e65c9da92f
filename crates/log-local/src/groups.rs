//! Members of groups and their partitions: the work of a group coordinator, as plain data.
//!
//! A seat is a static membership (compare KIP-345). An instance that returns under its name takes
//! its old seat. The predecessor is fenced, and no other member is disturbed. An instance that
//! leaves keeps its seat for a moment, because the engine leaves and rejoins at each recovery.
//! Without this grace time, the recovery of an instance would void the transactions of all other
//! instances. Their recoveries would void the first instance's transaction again, without end.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// An input of a group: topic number and number of partitions.
pub(crate) type GroupInput = (u16, u32);

/// A seat in a group, held by one incarnation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ticket {
    pub group: String,
    pub instance: String,
    epoch: u64,
}

/// All groups of a log.
pub(crate) struct Groups {
    groups: BTreeMap<String, Group>,
    epochs: u64,
    grace: Duration,
}

#[derive(Default)]
struct Group {
    generation: u64,
    inputs: Vec<GroupInput>,
    seats: BTreeMap<Natural, Seat>,
}

struct Seat {
    epoch: u64,
    left: Option<Instant>,
    partitions: Vec<(u16, u32)>,
}

/// A newer incarnation has replaced the holder of the ticket.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Fenced;

impl Groups {
    /// Creates an empty set of groups. An instance that leaves keeps its seat for `grace`.
    pub(crate) fn new(grace: Duration) -> Self {
        Groups {
            groups: BTreeMap::new(),
            epochs: 0,
            grace,
        }
    }

    /// Takes the instance's seat, or creates a seat. The flag is true if the partitions of the
    /// other members changed.
    pub(crate) fn join(
        &mut self,
        group: &str,
        instance: &str,
        inputs: &[GroupInput],
    ) -> Result<(Ticket, bool), String> {
        let name = Natural(instance.to_string());
        let g = self.groups.entry(group.to_string()).or_default();
        if g.inputs != inputs {
            if g.seats.iter().any(|(n, s)| *n != name && s.left.is_none()) {
                return Err(format!(
                    "the members of group {group} read other topics than {instance}; start all of them with the same program and options"
                ));
            }

            g.seats.clear();
            g.inputs = inputs.to_vec();
        }

        self.epochs += 1;
        let epoch = self.epochs;
        let changed = match g.seats.get_mut(&name) {
            Some(seat) => {
                (seat.epoch, seat.left) = (epoch, None);
                false
            }
            None => {
                g.seats.insert(
                    name,
                    Seat {
                        epoch,
                        left: None,
                        partitions: Vec::new(),
                    },
                );

                g.share();
                true
            }
        };

        Ok((
            Ticket {
                group: group.to_string(),
                instance: instance.to_string(),
                epoch,
            },
            changed,
        ))
    }

    /// Leaves the group, unless a newer incarnation has the seat. Takes effect in [`Self::expire`].
    pub(crate) fn leave(&mut self, ticket: &Ticket, now: Instant) {
        let seat = self
            .groups
            .get_mut(&ticket.group)
            .and_then(|g| g.seats.get_mut(&Natural(ticket.instance.clone())));
        if let Some(seat) = seat.filter(|seat| seat.epoch == ticket.epoch) {
            seat.left = Some(now);
        }
    }

    /// Time at which the next abandoned seat of a group expires.
    pub(crate) fn due(&self, group: &str) -> Option<Instant> {
        self.groups
            .get(group)?
            .seats
            .values()
            .filter_map(|s| s.left)
            .min()
            .map(|left| left + self.grace)
    }

    /// Removes expired seats. Returns true if a seat was removed.
    pub(crate) fn expire(&mut self, group: &str, now: Instant) -> bool {
        let grace = self.grace;
        let Some(g) = self.groups.get_mut(group) else {
            return false;
        };

        let before = g.seats.len();
        g.seats
            .retain(|_, s| s.left.is_none_or(|left| now < left + grace));
        let changed = g.seats.len() != before;
        if changed {
            g.share();
        }

        changed
    }

    /// The group's generation, if the ticket still holds its seat.
    pub(crate) fn generation(&self, ticket: &Ticket) -> Result<u64, Fenced> {
        self.seat(ticket).map(|(g, _)| g.generation)
    }

    /// The partitions of a seat.
    pub(crate) fn partitions(&self, ticket: &Ticket) -> Result<&[(u16, u32)], Fenced> {
        self.seat(ticket).map(|(_, s)| s.partitions.as_slice())
    }

    fn seat(&self, ticket: &Ticket) -> Result<(&Group, &Seat), Fenced> {
        let group = self.groups.get(&ticket.group).ok_or(Fenced)?;
        let seat = group
            .seats
            .get(&Natural(ticket.instance.clone()))
            .filter(|s| s.epoch == ticket.epoch)
            .ok_or(Fenced)?;
        Ok((group, seat))
    }
}

impl Group {
    /// Assigns partition numbers in consecutive ranges, in the order of the names. Partition i of
    /// every input goes to the same member.
    fn share(&mut self) {
        self.generation += 1;
        let numbers = self
            .inputs
            .iter()
            .map(|(_, count)| *count)
            .max()
            .unwrap_or(0);
        let seats = u32::try_from(self.seats.len()).expect("few members");
        let mut first = 0;
        for (i, seat) in (0..).zip(self.seats.values_mut()) {
            let end = first + numbers / seats + u32::from(i < numbers % seats);
            let run = first..end;
            seat.partitions = self
                .inputs
                .iter()
                .flat_map(|(topic, count)| {
                    run.clone()
                        .filter(move |p| p < count)
                        .map(move |p| (*topic, p))
                })
                .collect();

            first = end;
        }
    }
}

/// A name whose runs of digits compare as numbers, so that `orders-2` comes before `orders-10`.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Natural(String);

impl Ord for Natural {
    fn cmp(&self, other: &Self) -> Ordering {
        let mut a = self.0.as_bytes();
        let mut b = other.0.as_bytes();
        loop {
            let run_a = digits(a);
            let run_b = digits(b);
            let step = if run_a > 0 && run_b > 0 {
                let x = number(&a[..run_a]);
                let y = number(&b[..run_b]);
                (a, b) = (&a[run_a..], &b[run_b..]);
                x.len().cmp(&y.len()).then(x.cmp(y))
            } else {
                match (a.split_first(), b.split_first()) {
                    (Some((x, rest_a)), Some((y, rest_b))) => {
                        (a, b) = (rest_a, rest_b);
                        x.cmp(y)
                    }
                    (x, y) => {
                        return x
                            .is_some()
                            .cmp(&y.is_some())
                            .then_with(|| self.0.cmp(&other.0));
                    }
                }
            };

            if step != Ordering::Equal {
                return step;
            }
        }
    }
}

impl PartialOrd for Natural {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

fn digits(text: &[u8]) -> usize {
    text.iter().take_while(|c| c.is_ascii_digit()).count()
}

fn number(digits: &[u8]) -> &[u8] {
    &digits[digits.iter().take_while(|c| **c == b'0').count()..]
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_millis(500);

    #[test]
    fn numbers_in_names_count_as_numbers() {
        let mut names: Vec<_> = [
            "orders-10",
            "orders-2",
            "orders",
            "orders-02",
            "audit-3",
            "orders-2-b",
        ]
        .map(|n| Natural(n.into()))
        .into();

        names.sort();
        let names: Vec<_> = names.iter().map(|n| n.0.as_str()).collect();
        assert_eq!(
            names,
            [
                "audit-3",
                "orders",
                "orders-02",
                "orders-2",
                "orders-2-b",
                "orders-10"
            ]
        );
    }

    #[test]
    fn partitions_have_one_reader_and_equal_numbers_stay_together() {
        for members in 1..9_u32 {
            let mut groups = Groups::new(GRACE);
            let tickets: Vec<_> = (0..members)
                .map(|i| {
                    groups
                        .join("g", &format!("g-{i}"), &[(1, 6), (2, 6), (3, 1)])
                        .expect("joins")
                        .0
                })
                .collect();

            let shares: Vec<_> = tickets
                .iter()
                .map(|t| groups.partitions(t).expect("seated").to_vec())
                .collect();
            let mut all: Vec<_> = shares.iter().flatten().copied().collect();
            all.sort_unstable();
            let expected: Vec<_> = [(1, 6), (2, 6), (3, 1)]
                .iter()
                .flat_map(|(t, n)| (0..*n).map(move |p| (*t, p)))
                .collect();
            assert_eq!(all, expected);
            for share in &shares {
                for (_, p) in share.iter().filter(|(t, _)| *t == 1) {
                    assert!(share.contains(&(2, *p)));
                }

                assert!(
                    share.iter().filter(|(t, _)| *t == 1).count()
                        <= 6_usize.div_ceil(members as usize)
                );
            }
        }
    }

    #[test]
    fn a_return_under_the_same_name_disturbs_nobody() {
        let mut groups = Groups::new(GRACE);
        let now = Instant::now();
        let (a, _) = groups.join("g", "g-0", &[(1, 4)]).expect("joins");
        let (b, changed) = groups.join("g", "g-1", &[(1, 4)]).expect("joins");
        assert!(changed);
        let generation = groups.generation(&b);
        let (again, changed) = groups.join("g", "g-0", &[(1, 4)]).expect("joins");
        assert!(!changed);
        assert_eq!(groups.generation(&a), Err(Fenced));
        groups.leave(&a, now);
        assert_eq!(
            groups.due("g"),
            None,
            "a fenced incarnation cannot give up its successor's seat"
        );
        groups.leave(&again, now);
        assert!(!groups.expire("g", now));
        groups.join("g", "g-0", &[(1, 4)]).expect("joins");
        assert!(!groups.expire("g", now + GRACE * 2));
        assert_eq!(groups.generation(&b), generation);
    }

    #[test]
    fn who_stays_away_loses_the_seat() {
        let mut groups = Groups::new(GRACE);
        let now = Instant::now();
        let (a, _) = groups.join("g", "g-0", &[(1, 4)]).expect("joins");
        let (b, _) = groups.join("g", "g-1", &[(1, 4)]).expect("joins");
        assert_eq!(groups.partitions(&a).expect("seated").len(), 2);
        let before = groups.generation(&a).expect("seated");
        groups.leave(&b, now);
        assert_eq!(groups.due("g"), Some(now + GRACE));
        assert!(groups.expire("g", now + GRACE));
        assert!(groups.generation(&a).expect("seated") > before);
        assert_eq!(groups.partitions(&a).expect("seated").len(), 4);
        assert_eq!(groups.partitions(&b), Err(Fenced));
    }

    #[test]
    fn members_with_other_inputs_are_refused_while_anyone_is_there() {
        let mut groups = Groups::new(GRACE);
        let now = Instant::now();
        let (a, _) = groups.join("g", "g-0", &[(1, 4)]).expect("joins");
        assert!(groups.join("g", "g-1", &[(2, 4)]).is_err());
        groups.leave(&a, now);
        assert!(groups.join("g", "g-1", &[(2, 4)]).is_ok());
        assert_eq!(groups.generation(&a), Err(Fenced));
    }
}
