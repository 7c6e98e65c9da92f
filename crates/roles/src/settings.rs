//! The settings that an operator may choose for the roles' decisions. The roles that decide leave
//! it in their journals, so that a replay decides as was decided then, whatever is set by now, and
//! so that `audit find` can say it.

use domain::price::Stale;
use domain::tick::Rules;
use wire::encode::{self, Encoding, Field};
use wire::input::read_map;

/// See the module.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleSettings {
    /// Orders per second and user; 0: no limit.
    pub rate_limit: u32,
    /// Orders that may come at once.
    pub burst: u32,
    /// Of other commands of a user so many times the rate and the burst may come; 0: no limit.
    pub message_rate_factor: u32,
    /// Oldest price that counts as fresh.
    pub stale_ms: u64,
    /// The cash that a new account begins with, 10^-4; 0: nothing.
    pub opening_cash_e4: i64,
    /// Oldest command that is accepted, if that is limited.
    pub max_command_age_ms: Option<u64>,
    /// How long an id that has ended is remembered; none: for ever.
    pub dedup_window_ms: Option<i64>,
    /// Orders of one user that may rest or wait at a time.
    pub open_orders_max: u64,
    /// When DAY orders end: so long after midnight UTC, milliseconds.
    pub day_ends_ms: i64,
    /// The rule of times that fall: a clock that was far ahead for a moment is outlived. Not for
    /// operators: journals from before it came do not name it, and are replayed without.
    pub time_may_fall: bool,
    /// The same of the queue of ids that are to be forgotten: it does not wait for a time that a
    /// wrong clock showed.
    pub marks_may_fall: bool,
    /// Orders that a mass cancel takes at a time; 0: all at once, as it was before there were
    /// parts.
    pub mass_cancel_part: u64,
    /// Trades that one record leads to; an order that meets more goes on in parts. 0: all at once,
    /// as it was before there were parts.
    pub match_part: u64,
    /// The rules of the desk, see [`RULES`]. Not for operators: journals of before do not name it,
    /// and are replayed by rules 0.
    pub rules: u64,
    /// Whether users themselves may move money, by deposits and withdrawals on `order-commands`.
    pub client_transfers: bool,
}

/// The newest rules of the desk. Each number adds to those before it:
///
/// 1. the house has a place in the book ([`HOUSE_IN_BOOK`]);
/// 2. stops are bound by the price that set them off ([`STOPS_BY_TRIGGER`]);
/// 3. a limit is bound on the side that costs its owner, by a price that is fresh
///    ([`BANDS_BY_SIDE`]);
/// 4. protections under a name that is not ours are refused ([`STRICT_FIELDS`]);
/// 5. what was sold short holds what it brought, and a margin, by the price of now
///    ([`SHORT_MARGIN`]);
/// 6. orders of who is stopped or disabled end ([`SWITCHED_OFF_ENDS`]);
/// 7. of a tick and a trade the last one processed is the price, whatever their clocks say
///    ([`LAST_PROCESSED`]);
/// 8. the last price of a burst is told when its second is over ([`LAST_IS_TOLD`]);
/// 9. operators have a topic of their own, and not every command opens an account
///    ([`OPERATORS_APART`]);
/// 10. the inputs of a transaction are merged by log time ([`MERGED_BY_LOG_TIME`]);
/// 11. a trade is taken back as it was, and posted whatever has become of the money
///     ([`BUST_BY_TRADE`]);
/// 12. what is no order has a limit of its own, and a command that names no open order leaves its
///     id free ([`MESSAGES_BOUNDED`]);
/// 13. a source of ticks that was silent may begin its numbers anew ([`SOURCES_BEGIN_ANEW`]);
/// 14. a changed order holds what a new one would for what it sells short ([`MARGIN_OF_CHANGES`]);
/// 15. a quote is owed to the orders that rest by then, and not to later ones
///     ([`OWED_TO_WHAT_RESTS`]).
pub(crate) const RULES: u64 = 15;
/// From these rules on the house is met at its price, by every order, and trades with what rests at
/// its next quote. Before, it took what the book left of market orders.
pub(crate) const HOUSE_IN_BOOK: u64 = 1;
/// From these rules on the collar of a stop counts from the price that set it off, and a buy whose
/// cash does not reach that far rests. Before, it counted from the stop price, and what the market
/// had passed was cancelled.
pub(crate) const STOPS_BY_TRIGGER: u64 = 2;
/// From these rules on a limit far from the market on the side where it waits is no mistake, and a
/// price that is too old bounds nothing. Before, the collar bound limits on both sides, also by a
/// price of any age.
pub(crate) const BANDS_BY_SIDE: u64 = 3;
/// From these rules on a command with a protection under a name that is not ours is refused.
/// Before, such a field was ignored like any other.
pub(crate) const STRICT_FIELDS: u64 = 4;
/// From these rules on a short sale's proceeds are held, with a margin; both follow the reference
/// price. Before, the price at the collar was held, as it was at the sale, and the proceeds were
/// free.
pub(crate) const SHORT_MARGIN: u64 = 5;
/// From these rules on nothing of a user trades who is stopped or disabled, and their orders end.
/// Before, only what came later was refused.
pub(crate) const SWITCHED_OFF_ENDS: u64 = 6;
/// From these rules on no clocks of different topics are compared to find the newer price. Before,
/// the later append time won.
pub(crate) const LAST_PROCESSED: u64 = 7;
/// From these rules on a price that was not worth telling at once is told when its second is over.
/// Before, it waited for the next tick.
pub const LAST_IS_TOLD: u64 = 8;
/// From these rules on `order-commands` carries neither busts nor commands with an operator, and a
/// command that is refused for its form, its topic or what is switched off opens no account.
pub(crate) const OPERATORS_APART: u64 = 9;
/// From these rules on the records of a transaction are processed in the order of their log times.
/// Before, all prices came first, then the clock, then orders.
pub const MERGED_BY_LOG_TIME: u64 = 10;
/// From these rules on orders keep their trades, and a trade is taken back only as it was, in parts
/// too, and told in `trades`; what is not there any more is owed. Before, the operator's word was
/// taken for price and fee, and what was not there any more could not be taken back.
pub(crate) const BUST_BY_TRADE: u64 = 11;
/// From these rules on there is the second bucket, `UNKNOWN_ORDER` leaves the id free, and limits
/// follow a time that falls by more than a second. Before, only orders were limited, and time had
/// to fall by more than an empty bucket takes to fill.
pub(crate) const MESSAGES_BOUNDED: u64 = 12;
/// From these rules on a lower `seq` counts, if its source was silent before it, and late ticks in
/// a row are told. Before, the highest one silenced all below it.
pub(crate) const SOURCES_BEGIN_ANEW: u64 = 13;
/// From these rules on a change to more shares or a lower limit holds for each share sold short
/// what a new order would, if that is more. Before, each share held what it did at first.
pub(crate) const MARGIN_OF_CHANGES: u64 = 14;
/// From these rules on a quote that is owed to orders which are gone is owed to nobody. Before, an
/// order that came later and had met the house could be filled by the same quote once more.
pub(crate) const OWED_TO_WHAT_RESTS: u64 = 15;

impl Default for RoleSettings {
    fn default() -> Self {
        RoleSettings {
            rate_limit: 100,
            burst: 200,
            message_rate_factor: 10,
            stale_ms: 120_000,
            opening_cash_e4: 10_000_000_000,
            max_command_age_ms: None,
            dedup_window_ms: None,
            open_orders_max: 10_000,
            day_ends_ms: 0,
            time_may_fall: true,
            marks_may_fall: true,
            mass_cancel_part: 500,
            match_part: 1_000,
            rules: RULES,
            client_transfers: false,
        }
    }
}

impl RoleSettings {
    /// As JSON, by the names that the command line has for them. What is beyond i64 is as good as
    /// unlimited, there and here.
    pub fn encode(&self) -> Vec<u8> {
        let int = |n: u64| Field::Int(i64::try_from(n).unwrap_or(i64::MAX));
        let all = [
            ("rate_limit", int(self.rate_limit.into())),
            ("burst", int(self.burst.into())),
            ("stale_ms", int(self.stale_ms)),
            ("opening_cash_e4", Field::Int(self.opening_cash_e4)),
            ("open_orders_max", int(self.open_orders_max)),
            ("day_ends_ms", Field::Int(self.day_ends_ms)),
        ];

        // A setting that is off is not written.
        let limits = [
            ("max_command_age_ms", self.max_command_age_ms.map(int)),
            ("dedup_window_ms", self.dedup_window_ms.map(Field::Int)),
            ("time_may_fall", self.time_may_fall.then_some(Field::Int(1))),
            (
                "marks_may_fall",
                self.marks_may_fall.then_some(Field::Int(1)),
            ),
            (
                "mass_cancel_part",
                Some(int(self.mass_cancel_part)).filter(|_| self.mass_cancel_part > 0),
            ),
            (
                "match_part",
                Some(int(self.match_part)).filter(|_| self.match_part > 0),
            ),
            ("rules", Some(int(self.rules)).filter(|_| self.rules > 0)),
            (
                "client_transfers",
                self.client_transfers.then_some(Field::Int(1)),
            ),
            (
                "message_rate_factor",
                Some(Field::Int(self.message_rate_factor.into()))
                    .filter(|_| self.message_rate_factor > 0),
            ),
        ];

        let all: Vec<_> = all
            .into_iter()
            .chain(limits.into_iter().filter_map(|(name, n)| Some((name, n?))))
            .collect();
        let mut out = Vec::new();
        encode::fields(Encoding::Json, &all, &mut out);
        out
    }

    /// The rules by which ticks count and prices are told.
    pub fn price_rules(&self) -> Rules {
        Rules {
            stale: Stale::new(self.stale_ms, self.time_may_fall),
            last_is_told: self.rules >= LAST_IS_TOLD,
            begins_anew: self.rules >= SOURCES_BEGIN_ANEW,
        }
    }

    /// The same without what came after journals had settings: an entry that does not name it was
    /// decided without it.
    pub(super) fn before_settings(self) -> RoleSettings {
        RoleSettings {
            time_may_fall: false,
            marks_may_fall: false,
            mass_cancel_part: 0,
            match_part: 0,
            rules: 0,
            message_rate_factor: 0,
            ..self
        }
    }

    /// From what [`Self::encode`] wrote, in this version or an older one: a setting that came later
    /// begins with a default under which nothing changes. One that this version does not know is an
    /// error, since it may have decided something.
    pub fn decode(bytes: &[u8]) -> Result<RoleSettings, String> {
        let mut s = RoleSettings::default().before_settings();
        let mut wrong = None;
        let fault = read_map(bytes, |name, value| {
            let n = value.integer().and_then(|n| i64::try_from(n).ok());
            let fits = n.is_some_and(|n| match name {
                "rate_limit" => put(&mut s.rate_limit, n),
                "burst" => put(&mut s.burst, n),
                "message_rate_factor" => put(&mut s.message_rate_factor, n),
                "stale_ms" => put(&mut s.stale_ms, n),
                "opening_cash_e4" => put(&mut s.opening_cash_e4, n),
                "max_command_age_ms" => put(s.max_command_age_ms.get_or_insert_default(), n),
                "dedup_window_ms" => put(s.dedup_window_ms.get_or_insert_default(), n),
                "open_orders_max" => put(&mut s.open_orders_max, n),
                "day_ends_ms" => put(&mut s.day_ends_ms, n),
                "time_may_fall" => on(&mut s.time_may_fall, n),
                "marks_may_fall" => on(&mut s.marks_may_fall, n),
                "client_transfers" => on(&mut s.client_transfers, n),
                "mass_cancel_part" => put(&mut s.mass_cancel_part, n),
                "match_part" => put(&mut s.match_part, n),
                // Rules that are not known here may have decided anything.
                "rules" => (1..=RULES as i64).contains(&n) && put(&mut s.rules, n),
                _ => false,
            });

            if !fits {
                wrong.get_or_insert(format!(
                    "the setting {name} is unknown to this version of processor, or has a value that is: use the version that wrote it"
                ));
            }
        });

        match (wrong, fault) {
            (Some(wrong), _) => Err(wrong),
            (None, Err(fault) | Ok(Some(fault))) => {
                Err(format!("settings that cannot be read: {fault}"))
            }
            (None, Ok(None)) => Ok(s),
        }
    }
}

/// A rule that is on where it is named.
fn on(rule: &mut bool, n: i64) -> bool {
    *rule = n == 1;
    *rule
}

/// False: it does not fit there.
fn put<T: TryFrom<i64>>(setting: &mut T, n: i64) -> bool {
    T::try_from(n).map(|n| *setting = n).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_what_is_read() {
        let odd = RoleSettings {
            rate_limit: 0,
            burst: u32::MAX,
            message_rate_factor: 0,
            stale_ms: 1,
            opening_cash_e4: 0,
            max_command_age_ms: Some(60_000),
            dedup_window_ms: Some(120_000),
            open_orders_max: 3,
            day_ends_ms: 79_200_000,
            time_may_fall: false,
            marks_may_fall: false,
            mass_cancel_part: 0,
            match_part: 0,
            rules: 0,
            client_transfers: true,
        };

        for s in [RoleSettings::default(), odd] {
            assert_eq!(RoleSettings::decode(&s.encode()), Ok(s));
        }

        assert_eq!(
            RoleSettings::decode(b"{}"),
            Ok(RoleSettings::default().before_settings())
        );
        let before = r#"{"rate_limit":1,"burst":2,"stale_ms":3,"opening_cash_e4":4,"open_orders_max":5,"day_ends_ms":6}"#;
        assert_eq!(
            RoleSettings::decode(before.as_bytes()).map(|s| (
                s.mass_cancel_part,
                s.match_part,
                s.rules
            )),
            Ok((0, 0, 0)),
            "all at once, as it was decided then"
        );
    }

    #[test]
    fn what_this_version_does_not_know_is_an_error() {
        for bad in [
            "",
            "x",
            r#"{"burst":"2"}"#,
            r#"{"burst":-1}"#,
            r#"{"burst":1,"burst":1}"#,
            r#"{"fees":1}"#,
            r#"{"stale_ms":null}"#,
            r#"{"time_may_fall":2}"#,
            r#"{"rules":0}"#,
            r#"{"rules":1000}"#,
        ] {
            assert!(RoleSettings::decode(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
