//! Settings that an operator may choose for decisions of the roles. Deciding roles write them to
//! their journals. A replay then decides by the settings of that time, and `audit find` can print
//! them.

use domain::price::FreshnessLimits;
use domain::tick::Rules;
use wire::encode::{self, Encoding, Field};
use wire::input::read_map;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RoleSettings {
    /// Orders per second and user; 0 means no limit.
    pub rate_limit: u32,
    /// Size of the bucket, in orders.
    pub burst: u32,
    /// Limit for all other commands of a user, as a multiple of rate and burst; 0 means no limit.
    pub message_rate_factor: u32,
    /// Age of the oldest price that counts as fresh.
    pub stale_ms: u64,
    /// Cash of a new account, in 10^-4; 0 means none.
    pub opening_cash_e4: i64,
    /// Age of the oldest command that is accepted; `None` means no limit.
    pub max_command_age_ms: Option<u64>,
    /// Time for which the id of an ended order is remembered; `None` means for ever.
    pub dedup_window_ms: Option<i64>,
    /// Maximum of open orders (resting orders and waiting stops) of one user.
    pub open_orders_max: u64,
    /// End of DAY orders, in milliseconds after midnight UTC.
    pub day_ends_ms: i64,
    /// Log time may go backwards, so a clock that was far ahead for a moment does no lasting harm.
    /// Operators cannot set this field. Old journals do not name the field, and are replayed
    /// without the rule.
    pub time_may_fall: bool,
    /// The same rule for the expiry queue of ids. The queue does not wait for a time that only a
    /// wrong clock showed.
    pub marks_may_fall: bool,
    /// Orders that a mass cancel ends per record; 0 means all at once, as in versions without
    /// parts.
    pub mass_cancel_part: u64,
    /// Maximum of trades per record; an order that meets more continues in later records. 0 means
    /// no maximum, as in versions without parts.
    pub match_part: u64,
    /// Version of the desk's rules, see `RULES`. Operators cannot set this field. Old journals do
    /// not name the field, and are replayed by rules 0.
    pub rules: u64,
    /// Users may move money, by deposits and withdrawals on `order-commands`.
    pub client_transfers: bool,
}

/// Newest version of the desk's rules. Each version adds one rule to those before:
///
/// 1. the house has a place in the book ([`HOUSE_IN_BOOK`]);
/// 2. the collar of a stop counts from its trigger price ([`STOPS_BY_TRIGGER`]);
/// 3. a fresh price bounds a limit, only on the side that costs the owner ([`BANDS_BY_SIDE`]);
/// 4. a protective field under an unknown name is refused ([`STRICT_FIELDS`]);
/// 5. a short position holds its proceeds and a margin, at the current price ([`SHORT_MARGIN`]);
/// 6. orders of stopped or disabled users end ([`SWITCHED_OFF_ENDS`]);
/// 7. the price is the last processed tick or trade, and their clocks do not count
///    ([`LAST_PROCESSED`]);
/// 8. the last price of a burst is published at the end of its second ([`LAST_IS_TOLD`]);
/// 9. operators have a topic of their own, and some refused commands open no account
///    ([`OPERATORS_APART`]);
/// 10. the inputs of a transaction are merged by log time ([`MERGED_BY_LOG_TIME`]);
/// 11. a trade bust uses the recorded trade, and is posted even if cash or shares are gone
///     ([`BUST_BY_TRADE`]);
/// 12. commands other than orders have a rate limit, and a command that names no open order leaves
///     its id free ([`MESSAGES_BOUNDED`]);
/// 13. a source of ticks that was silent may restart its sequence numbers ([`SOURCES_BEGIN_ANEW`]);
/// 14. a replaced order holds as much for its short sale as a new order would
///     ([`MARGIN_OF_CHANGES`]);
/// 15. an owed quote is for the orders of that time, and not for later orders
///     ([`OWED_TO_WHAT_RESTS`]);
/// 16. order events carry the type, the time in force and the other terms of their order
///     ([`TERMS_TOLD`]).
pub(crate) const RULES: u64 = 16;
/// From these rules on, every order meets the house at the house's price, and resting orders meet
/// its next quote. Before, the house took the remainder that market orders left.
pub(crate) const HOUSE_IN_BOOK: u64 = 1;
/// From these rules on, the collar of a stop counts from the trigger price. A buy whose hold does
/// not reach that far rests in the book. Before, the collar counted from the stop price, and a stop
/// that the market had passed was cancelled.
pub(crate) const STOPS_BY_TRIGGER: u64 = 2;
/// From these rules on, a limit far from the market is valid on the side where the order rests. A
/// stale price bounds nothing. Before, the collar bound limits on both sides, also by a price of
/// any age.
pub(crate) const BANDS_BY_SIDE: u64 = 3;
/// From these rules on, a command with a protective field under an unknown name is refused. Before,
/// the field was ignored like any unknown field.
pub(crate) const STRICT_FIELDS: u64 = 4;
/// From these rules on, the proceeds of a short sale are held, with a margin; both follow the
/// reference price. Before, the price at the collar was held, as of the sale, and the proceeds were
/// free.
pub(crate) const SHORT_MARGIN: u64 = 5;
/// From these rules on, orders of a stopped or disabled user do not trade, and end. Before, only
/// later commands were refused.
pub(crate) const SWITCHED_OFF_ENDS: u64 = 6;
/// From these rules on, clocks of different topics are not compared to find the newer price.
/// Before, the later append time won.
pub(crate) const LAST_PROCESSED: u64 = 7;
/// From these rules on, a price that was conflated is published at the end of its second. Before,
/// the price waited for the next tick.
pub const LAST_IS_TOLD: u64 = 8;
/// From these rules on, `order-commands` carries neither busts nor commands with an operator. A
/// command that is refused for its form, its topic or a kill switch opens no account.
pub(crate) const OPERATORS_APART: u64 = 9;
/// From these rules on, the records of a transaction are processed in the order of their log times.
/// Before, all prices came first, then the clock, then orders.
pub const MERGED_BY_LOG_TIME: u64 = 10;
/// From these rules on, orders keep their trades. A bust must match the recorded trade, may be
/// partial, and is published in `trades`. Missing cash or shares are owed. Before, price and fee
/// came from the operator's command, and a bust failed if cash or shares were gone.
pub(crate) const BUST_BY_TRADE: u64 = 11;
/// From these rules on, the second bucket exists, and `UNKNOWN_ORDER` leaves the id free. Limits
/// follow a clock that falls by more than a second. Before, only orders were limited, and the clock
/// had to fall by more than the time to fill an empty bucket.
pub(crate) const MESSAGES_BOUNDED: u64 = 12;
/// From these rules on, a lower `seq` counts if its source was silent before, and runs of late
/// ticks are reported. Before, the highest `seq` silenced all lower numbers.
pub(crate) const SOURCES_BEGIN_ANEW: u64 = 13;
/// From these rules on, a replace to more shares or a lower limit holds for its short sale the hold
/// of a new order, if higher. Before, each share kept its first hold.
pub(crate) const MARGIN_OF_CHANGES: u64 = 14;
/// From these rules on, an owed quote ends with the orders that the house owed the quote to.
/// Before, a later order that had already met the house could be filled by the same quote once
/// more.
pub(crate) const OWED_TO_WHAT_RESTS: u64 = 15;
/// From these rules on, events say `type`, `tif`, `stop_price_e4`, `expire_at_us`, `post_only` and
/// `average_price_e4`. Before, only the command said the order's terms.
pub(crate) const TERMS_TOLD: u64 = 16;

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
    /// Encodes the settings as JSON, by their names on the command line. A value beyond `i64` is
    /// clamped, which is as good as unlimited.
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

    /// Rules for accepting ticks and publishing prices.
    pub fn price_rules(&self) -> Rules {
        Rules {
            stale: FreshnessLimits::new(self.stale_ms, self.time_may_fall),
            last_is_told: self.rules >= LAST_IS_TOLD,
            begins_anew: self.rules >= SOURCES_BEGIN_ANEW,
        }
    }

    /// These settings without the rules that are newer than settings in journals. A journal entry
    /// that does not name a rule was decided without that rule.
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

    /// Reads the bytes of [`Self::encode`], of this version or an older one. A setting that is
    /// missing gets a default that keeps the old behaviour. An unknown setting is an error, because
    /// that setting may have changed decisions.
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
                // Unknown rules may have changed any decision.
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

/// Switches a rule on if the journal names it as 1.
fn on(rule: &mut bool, n: i64) -> bool {
    *rule = n == 1;
    *rule
}

/// Returns false if `n` does not fit the setting's type.
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
