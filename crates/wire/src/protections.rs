//! Fields that protect an order at other venues, and misspelt names of our own protections. A
//! command with such a field asks for a protection that would not be applied. Once `reduce_only`,
//! `stopPrice` and `dry_run` were ignored like any unknown field, and protected orders became plain
//! market orders. So the command is refused, and the answer names the field. All other unknown
//! fields are ignored, as the contract says.
//!
//! The list decides the result of records. So the list may only grow, and only together with a
//! setting in the journal.

use super::input::FieldValue;

/// Longest name of a protection, in bytes. Names are compared without case, and without `_`, `-`,
/// `.` and blanks.
const NAME_MAX: usize = 24;

/// Names that mark a trial: the command must not be executed.
const TRIALS: &[&str] = &[
    "dryrun",
    "test",
    "testonly",
    "testorder",
    "validate",
    "validateonly",
    "whatif",
    "simulate",
    "simulated",
    "simulation",
    "preview",
    "paper",
    "papertrading",
    "sandbox",
];

/// Names of protections. A protection restricts the position after the trade, the price, the time,
/// or the traded or shown quantity. Other protections link the order with another order.
const PROTECTIONS: &[&str] = &[
    // Trade only against an existing position.
    "reduceonly",
    "closeonly",
    "closeposition",
    "reducing",
    "isreduceonly",
    "noshort",
    "longonly",
    "positioneffect",
    "openclose",
    // Prices.
    "price",
    "px",
    "limit",
    "limitpx",
    "orderprice",
    "maxprice",
    "minprice",
    "worstprice",
    "pricelimit",
    "pricecap",
    "priceprotect",
    "protectionprice",
    "boundprice",
    "stop",
    "stoppx",
    "stoploss",
    "stoplossprice",
    "sl",
    "slprice",
    "takeprofit",
    "takeprofitprice",
    "tp",
    "tpprice",
    "trigger",
    "triggerprice",
    "triggerpx",
    "triggertype",
    "workingtype",
    "activationprice",
    "trail",
    "trailprice",
    "trailpercent",
    "trailamount",
    "trailingstop",
    "trailingamount",
    "trailingdelta",
    "trailingpercent",
    "trailingdistance",
    "callbackrate",
    "slippage",
    "maxslippage",
    "slippagebps",
    "collar",
    "collarbps",
    "pegoffset",
    "discretion",
    // Times.
    "timeinforce",
    "timeinforcetype",
    "orderduration",
    "duration",
    "goodtill",
    "goodtilldate",
    "goodtiltime",
    "gtd",
    "gtt",
    "expire",
    "expires",
    "expiresat",
    "expiretime",
    "expirein",
    "expiry",
    "expirytime",
    "expirydate",
    "expiration",
    "expirationtime",
    "expirationdate",
    "validuntil",
    "validto",
    "validfrom",
    "validtill",
    "effectivetime",
    "goodaftertime",
    "startat",
    "starttime",
    "notbefore",
    "cancelafter",
    "cancelat",
    "timeout",
    "ttl",
    // Quantity and kind of execution.
    "ioc",
    "fok",
    "aon",
    "immediateorcancel",
    "fillorkill",
    "allornone",
    "minqty",
    "minquantity",
    "minexecqty",
    "minimumquantity",
    "maxquantity",
    "maxqty",
    "maxnotional",
    "displayqty",
    "displayquantity",
    "visibleqty",
    "iceberg",
    "icebergqty",
    "hidden",
    "maxshow",
    "maxfloor",
    "maker",
    "makeronly",
    "passive",
    "passiveonly",
    "addliquidityonly",
    "alo",
    "gtx",
    "execinst",
    "executioninstructions",
    "ordtype",
    "ordertypename",
    // Links to other orders.
    "oco",
    "bracket",
    "orderclass",
    "linkedorder",
    "contingent",
    "condition",
    "conditional",
    "attached",
    "stp",
    "stpmode",
    "selftradeprevention",
    "selftradepreventionmode",
];

/// Our own protections. Their names are long enough to tell a typing error from another word.
const OURS: &[&str] = &["limitprice", "stopprice", "expireat", "postonly"];

/// Our own fields as the contract spells them. `price` is missing: in an order, `price` protects.
const EXACT: &[&str] = &[
    "command",
    "user_id",
    "order_id",
    "timestamp",
    "symbol",
    "quantity",
    "order_type",
    "type",
    "limit_price",
    "stop_price",
    "tif",
    "expire_at",
    "post_only",
    "orig_order_id",
    "amount",
    "operator",
    "trade_id",
    "fee",
];

/// Meaning of a field that is not read, for a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// The command is a trial. Counts for new orders, replaces, deposits and withdrawals.
    Trial,
    /// The field protects an order. Counts for new orders and replaces.
    Order,
}

/// The protection that a field name stands for; `None` if the name is not a protection.
fn of(name: &str) -> Option<Protection> {
    if EXACT.contains(&name) {
        return None;
    }

    let mut plain = [0_u8; NAME_MAX];
    let mut n = 0;
    for b in name.bytes().filter(|b| !b"_- .".contains(b)) {
        *plain.get_mut(n)? = b.to_ascii_lowercase();
        n += 1;
    }

    let plain = std::str::from_utf8(&plain[..n]).ok()?;
    if TRIALS.contains(&plain) {
        return Some(Protection::Trial);
    }

    let ours = EXACT
        .iter()
        .any(|own| own.bytes().filter(|b| *b != b'_').eq(plain.bytes()));
    let slip = || {
        OURS.iter()
            .any(|own| distance(plain.as_bytes(), own.as_bytes()) <= 1)
    };

    (ours || PROTECTIONS.contains(&plain) || slip()).then_some(Protection::Order)
}

/// The protection that a field asks for. A null or `false` value asks for no protection.
pub fn asked(name: &str, value: &FieldValue<'_>) -> Option<Protection> {
    if matches!(value, FieldValue::Null | FieldValue::Bool(false)) {
        None
    } else {
        of(name)
    }
}

/// Number of edits between two words, where 2 means two or more. An edit inserts, deletes or
/// replaces a letter, or swaps two neighbours (Damerau-Levenshtein distance).
fn distance(a: &[u8], b: &[u8]) -> usize {
    let same = a.iter().zip(b).take_while(|(x, y)| x == y).count();
    let a = &a[same..];
    let b = &b[same..];
    let one = match (a, b) {
        ([], []) => return 0,
        ([_, rest @ ..], _) if rest == b => true,
        (_, [_, rest @ ..]) if rest == a => true,
        ([x1, x2, x @ ..], [y1, y2, y @ ..]) if (x1, x2) == (y2, y1) && x == y => true,
        ([_, x @ ..], [_, y @ ..]) => x == y,
        _ => false,
    };

    if one { 1 } else { 2 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_protections_and_slips_are_told_from_other_words() {
        for name in [
            "reduce_only",
            "reduceOnly",
            "ReduceOnly",
            "stopPrice",
            "limitPrice",
            "LIMIT_PRICE",
            "limit-price",
            "limit_prise",
            "limi_price",
            "stop_prices",
            "sotp_price",
            "postOnly",
            "pots_only",
            "post_olny",
            "expireAt",
            "expire_att",
            "time_in_force",
            "timeInForce",
            "TIF",
            "price",
            "trailing_stop",
            "Type",
            "orderType",
            "iceberg_qty",
            "stop_loss",
        ] {
            assert_eq!(of(name), Some(Protection::Order), "{name}");
        }

        for name in ["dry_run", "dryRun", "test", "validate_only", "paper"] {
            assert_eq!(of(name), Some(Protection::Trial), "{name}");
        }

        for name in EXACT.iter().copied().chain([
            "note",
            "comment",
            "client_tag",
            "extra",
            "account",
            "strategy",
            "source",
            "time",
            "sent_at",
            "version",
            "",
            "_",
            "x",
            "priority",
            "type_name",
            "a_name_that_is_longer_than_any_of_ours",
            "limit_price_shown",
            "fee_rate",
            "label",
            "leverage",
            "stopping",
        ]) {
            assert_eq!(of(name), None, "{name}");
        }
    }

    #[test]
    fn what_is_off_asks_for_nothing() {
        for off in [FieldValue::Null, FieldValue::Bool(false)] {
            assert_eq!(asked("reduce_only", &off), None);
        }

        for on in [
            FieldValue::Bool(true),
            FieldValue::Int(0),
            FieldValue::Text("false".into()),
            FieldValue::Twice,
        ] {
            assert_eq!(asked("reduce_only", &on), Some(Protection::Order), "{on:?}");
        }
    }

    #[test]
    fn distances() {
        for (a, b, n) in [
            ("a", "a", 0),
            ("ab", "a", 1),
            ("a", "ab", 1),
            ("ab", "ba", 1),
            ("abc", "axc", 1),
            ("abc", "xyc", 2),
            ("abcd", "badc", 2),
            ("", "ab", 2),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), n, "{a} {b}");
        }
    }

    /// The author of a client cannot know a name that the contract does not list.
    #[test]
    fn the_contract_lists_every_name() {
        let contract = include_str!("../../../docs/contract.md");
        let listed: Vec<String> = contract
            .split('`')
            .skip(1)
            .step_by(2)
            .map(|w| w.replace('_', ""))
            .collect();
        for name in PROTECTIONS.iter().chain(TRIALS) {
            assert!(listed.iter().any(|w| w == name), "{name}");
        }
    }
}
