//! The contract's lists of bad input, row by row.

use serde_json::{Value, json};

/// Expected end of a bad command.
#[derive(Clone, Debug)]
pub enum Ends {
    /// Only a dead letter with this reason.
    Dead(&'static str),
    /// A dead letter `MALFORMED`, and an answer to the owner of the order.
    Answered,
    /// A reject with this reason.
    ///
    /// The second text names the first field in which the corrected command differs. The order id
    /// is burnt, so the correction is refused by this field.
    Rejected(&'static str, &'static str),
}

impl Ends {
    pub fn dead(&self) -> Option<&'static str> {
        match self {
            Ends::Dead(reason) => Some(reason),
            Ends::Answered => Some("MALFORMED"),
            Ends::Rejected(..) => None,
        }
    }

    pub fn reason(&self) -> Option<&'static str> {
        match self {
            Ends::Dead(_) => None,
            Ends::Answered => Some("MALFORMED"),
            Ends::Rejected(reason, _) => Some(reason),
        }
    }
}

/// A bad command of a separate user. The order id is `x` if the command has an id.
pub struct Row {
    pub name: String,
    pub user: String,
    /// Fields of the command, if the command is a well-formed map.
    pub fields: Option<Value>,
    pub value: Option<Vec<u8>>,
    pub ends: Ends,
    pub misplaced: bool,
    /// The user id is invalid, so no command of this user can ever be accepted.
    pub never: bool,
    keyless: bool,
    key: Option<Vec<u8>>,
}

impl Row {
    pub fn key(&self) -> Option<Vec<u8>> {
        if self.keyless {
            None
        } else {
            self.key
                .clone()
                .or_else(|| Some(self.user.clone().into_bytes()))
        }
    }
}

pub fn packed(value: &Value) -> Vec<u8> {
    rmp_serde::to_vec_named(value).expect("MessagePack")
}

/// Collects rows. `USER` stands for the user of the row.
#[derive(Default)]
struct Rows(Vec<Row>);

impl Rows {
    fn user(&self) -> String {
        format!("user{}", self.0.len())
    }

    fn raw(&mut self, name: &str, value: &[u8], ends: Ends) -> &mut Row {
        let user = self.user();
        let mut bytes = value.to_vec();

        // MessagePack writes the length before the text, so all users have the same length: `u0000`
        // to `u9999`.
        let short = format!("u{:04}", self.0.len());
        while let Some(at) = bytes.windows(5).position(|w| w == b"USER!") {
            bytes.splice(at..at + 5, short.bytes());
        }

        let user = if value == bytes { user } else { short };
        let row = Row {
            name: name.to_string(),
            user,
            fields: serde_json::from_slice(&bytes).ok(),
            value: Some(bytes),
            ends,
            misplaced: false,
            never: false,
            keyless: false,
            key: None,
        };

        self.0.push(row);
        self.0.last_mut().expect("just added")
    }

    /// Adds a JSON object twice: as JSON text and as MessagePack.
    fn both(&mut self, json: &str, ends: Ends) {
        self.raw(&format!("JSON {json}"), json.as_bytes(), ends.clone());
        let value: Value = serde_json::from_str(json).unwrap_or_else(|e| panic!("{json}: {e}"));
        let fields: Value =
            serde_json::from_str(&json.replace("USER!", &format!("u{:04}", self.0.len())))
                .expect("JSON");
        self.raw(&format!("MessagePack {json}"), &packed(&value), ends)
            .fields = Some(fields);
    }

    /// An order with these fields changed or added; null removes a field.
    fn order(&mut self, changes: Value, ends: Ends) {
        self.both(&changed(&changes), ends);
    }
}

fn good() -> Value {
    json!({"user_id": "USER!", "order_id": "x", "symbol": "AAPL", "quantity": 1, "order_type": "buy"})
}

fn changed(changes: &Value) -> String {
    let mut order = good();
    let map = order.as_object_mut().expect("a map");
    for (k, v) in changes.as_object().expect("a map") {
        if v.is_null() {
            drop(map.remove(k))
        } else {
            drop(map.insert(k.clone(), v.clone()))
        }
    }

    order.to_string()
}

const DEAD: Ends = Ends::Dead("MALFORMED");
const ANSWERED: Ends = Ends::Answered;
const NOT_SERVED: &str = "UNSUPPORTED_CHARACTERISTIC";

/// All rows of the list for `order-commands`.
pub fn commands() -> Vec<Row> {
    let mut r = Rows::default();
    undecodable(&mut r);
    fields(&mut r);
    not_served(&mut r);
    numbers(&mut r);
    records(&mut r);
    r.0
}

fn undecodable(r: &mut Rows) {
    for (name, value) in [
        ("empty", &b""[..]),
        ("rubbish", b"rubbish"),
        ("an open brace", b"{"),
        ("a JSON list", b"[1]"),
        ("a blank before the brace", b" {\"user_id\":\"USER!\",\"order_id\":\"x\"}"),
        ("a MessagePack list", b"\x93\x01\x02\x03"),
        ("a byte that is not MessagePack", b"\xc1"),
        ("MessagePack cut short", b"\x85\xa7user_id\xa5USER!\xa8order_id\xa1x\xa6symbol\xa4AA"),
        ("JSON cut short", br#"{"user_id":"USER!","order_id":"x","symbol":"AAPL","quan"#),
        ("user_id twice", br#"{"user_id":"USER!","user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        ("order_id twice", br#"{"user_id":"USER!","order_id":"x","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}"#),
        ("user_id not UTF-8", b"\x82\xa7user_id\xa1\xff\xa8order_id\xa1x"),
    ] {
        r.raw(name, value, DEAD);
    }

    let deep = format!(
        r#"{{"user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","more":{}1{}}}"#,
        "[".repeat(32),
        "]".repeat(32)
    );
    for (name, value) in [
        ("a key twice", &br#"{"user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":1,"quantity":1,"order_type":"buy"}"#[..]),
        ("an unknown key twice", br#"{"user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy","a":1,"a":1}"#),
        ("bytes after JSON", br#"{"user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":1,"order_type":"buy"}}"#),
        (
            "bytes after MessagePack",
            b"\x85\xa7user_id\xa5USER!\xa8order_id\xa1x\xa6symbol\xa4AAPL\xa8quantity\x01\xaaorder_type\xa3buy\x00",
        ),
        ("nested too deep", deep.as_bytes()),
        ("symbol as bytes", b"\x85\xa7user_id\xa5USER!\xa8order_id\xa1x\xa6symbol\xc4\x04AAPL\xa8quantity\x01\xaaorder_type\xa3buy"),
    ] {
        r.raw(name, value, ANSWERED).fields = None;
    }
}

fn fields(r: &mut Rows) {
    let too_long = "x".repeat(65);
    for changes in [
        json!({"user_id": null}),
        json!({"user_id": 5}),
        json!({"user_id": "other"}),
        json!({"user_id": ""}),
        json!({"order_id": null}),
        json!({"order_id": 7}),
        json!({"order_id": ""}),
        json!({"order_id": "a b"}),
        json!({"order_id": "a/b"}),
        json!({"order_id": too_long}),
        json!({"order_id": "ä"}),
    ] {
        r.order(changes, DEAD);
    }

    for changes in [
        json!({"symbol": null}),
        json!({"symbol": 5}),
        json!({"symbol": "AA PL"}),
        json!({"quantity": null}),
        json!({"quantity": "ten"}),
        json!({"quantity": true}),
        json!({"quantity": [1]}),
        json!({"quantity": "\u{661}"}),
        json!({"order_type": null}),
        json!({"order_type": "hold"}),
        json!({"order_type": "BUY"}),
        json!({"order_type": 1}),
        json!({"command": "buy"}),
        json!({"command": 1}),
        json!({"type": 1}),
        json!({"tif": 1}),
        json!({"timestamp": "now"}),
        json!({"timestamp": 1.5}),
        json!({"limit_price": "x"}),
        json!({"stop_price": true}),
        json!({"expire_at": "soon"}),
        json!({"post_only": 1}),
        json!({"command": "deposit"}),
        json!({"command": "deposit", "amount": "much"}),
        json!({"command": "withdraw"}),
        json!({"command": "cancel"}),
        json!({"command": "replace", "quantity": 1}),
        json!({"command": "mass_cancel", "symbol": 1}),
    ] {
        r.order(changes, ANSWERED);
    }
}

fn not_served(r: &mut Rows) {
    for (changes, conflict) in [
        (json!({"type": "limit"}), "type"),
        (
            json!({"type": "limit", "limit_price": 1, "tif": "GTD"}),
            "type",
        ),
        (
            json!({"type": "limit", "limit_price": 1, "tif": "IOC", "post_only": true}),
            "type",
        ),
        (json!({"type": "stop"}), "type"),
        (json!({"type": "stop_limit", "stop_price": 1}), "type"),
        (json!({"type": "pegged"}), "type"),
        (json!({"tif": "GTC"}), "tif"),
        (json!({"tif": "DAY"}), "tif"),
        (json!({"tif": "GTD"}), "tif"),
        (json!({"tif": "GTD", "expire_at": 1_900_000_000}), "tif"),
        (json!({"tif": "OPG"}), "tif"),
        (json!({"limit_price": 1}), "limit_price"),
        (json!({"post_only": true}), "post_only"),
    ] {
        r.order(changes, Ends::Rejected(NOT_SERVED, conflict));
    }

    for (changes, reason) in [
        (
            json!({"type": "limit", "limit_price": "1000"}),
            "PRICE_BAND",
        ),
        (
            json!({"type": "limit", "limit_price": "1.001"}),
            "INVALID_PRICE_INCREMENT",
        ),
        (
            json!({"type": "limit", "limit_price": 0}),
            "INVALID_PRICE_INCREMENT",
        ),
        (
            json!({"type": "limit", "limit_price": "1.00001"}),
            "INVALID_PRICE_INCREMENT",
        ),
        (
            json!({"type": "stop", "stop_price": -1}),
            "INVALID_PRICE_INCREMENT",
        ),
    ] {
        r.order(changes, Ends::Rejected(reason, "type"));
    }
}

fn numbers(r: &mut Rows) {
    let quantity = Ends::Rejected("INCORRECT_QUANTITY", "quantity");
    for q in [
        json!(0),
        json!(-5),
        json!(1.5),
        json!("NaN"),
        json!("inf"),
        json!(1e308),
        json!(4_611_686_018_427_387_905_i64),
        json!(u64::MAX),
        json!("1.5"),
    ] {
        r.order(json!({"quantity": q}), quantity.clone());
    }

    let nan =
        b"\x85\xa7user_id\xa5USER!\xa8order_id\xa1x\xa6symbol\xa4AAPL\xa8quantity\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00\xaaorder_type\xa3buy";
    r.raw("MessagePack NaN", nan, quantity.clone());
    r.raw(
        "JSON NaN",
        br#"{"user_id":"USER!","order_id":"x","symbol":"AAPL","quantity":NaN,"order_type":"buy"}"#,
        quantity,
    );
    for (changes, reason, conflict) in [
        (
            json!({"quantity": 4_611_686_018_427_387_904_i64}),
            "NOTIONAL_LIMIT",
            "quantity",
        ),
        (json!({"symbol": "BRK-B"}), "UNKNOWN_SYMBOL", "symbol"),
        (json!({"symbol": "aapl"}), "UNKNOWN_SYMBOL", "symbol"),
        (
            json!({"order_type": "sell"}),
            "SHORT_SELL_NOT_PERMITTED",
            "order_type",
        ),
        (
            json!({"quantity": 100_000}),
            "INSUFFICIENT_FUNDS",
            "quantity",
        ),
    ] {
        r.order(changes, Ends::Rejected(reason, conflict));
    }

    let transfer = |command: &str, amount: Value| {
        json!({"user_id": "USER!", "order_id": "x", "command": command, "amount": amount})
            .to_string()
    };

    for amount in [
        json!(0),
        json!(-1),
        json!(0.00001),
        json!("nan"),
        json!("461168601842738.7904"),
        json!(1e30),
    ] {
        r.both(
            &transfer("deposit", amount.clone()),
            Ends::Rejected("INVALID_AMOUNT", "amount"),
        );
    }

    r.both(
        &transfer("withdraw", json!(0)),
        Ends::Rejected("INVALID_AMOUNT", "amount"),
    );
    r.both(
        &transfer("withdraw", json!("1000000.0001")),
        Ends::Rejected("INSUFFICIENT_FUNDS", "amount"),
    );
}

/// Errors of the record, not of its value.
fn records(r: &mut Rows) {
    let order = good().to_string();
    let order = order.as_bytes();
    r.raw("wrong partition", order, Ends::Dead("MISPARTITIONED"))
        .misplaced = true;
    r.raw(
        "wrong partition and rubbish",
        b"rubbish",
        Ends::Dead("MISPARTITIONED"),
    )
    .misplaced = true;
    r.raw("no key", order, DEAD).keyless = true;
    r.raw("no value", order, DEAD).value = None;
    r.raw("another key", order, DEAD).key = Some(b"somebody".to_vec());
    r.raw("a key that is not text", order, DEAD).key = Some(b"\xff\xfe".to_vec());
    r.raw("an empty key", order, DEAD).key = Some(Vec::new());
    for (name, bytes) in [
        ("one byte too large", 65_537),
        ("as large as the topic allows", 1_000_000),
    ] {
        let mut value = changed(&json!({"more": ""}));
        value.insert_str(value.len() - 2, &"x".repeat(bytes - value.len()));
        r.raw(name, value.as_bytes(), Ends::Dead("OVERSIZE")).fields = None;
    }

    let large = r.raw(
        "too large, in the wrong partition and without a key",
        &[b' '; 70_000],
        Ends::Dead("OVERSIZE"),
    );
    (large.misplaced, large.keyless) = (true, true);
    for user in ["external", "house:AAPL", "a b", "ä"] {
        let value = order.to_vec();
        let row = r.raw(
            &format!("user {user}"),
            &String::from_utf8(value)
                .expect("text")
                .replace("USER!", user)
                .into_bytes(),
            DEAD,
        );

        (row.user, row.never, row.fields) = (user.to_string(), true, None);
    }
}

/// A record of `market-data` or `instruments` with the reason of its dead letter. The reason is
/// none if the record is good.
pub struct Bad {
    pub name: String,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub reason: Option<&'static str>,
    pub misplaced: bool,
}

fn bad(name: &str, value: &[u8], reason: &'static str) -> Bad {
    Bad {
        name: name.to_string(),
        key: Some(b"AAPL".to_vec()),
        value: Some(value.to_vec()),
        reason: Some(reason),
        misplaced: false,
    }
}

fn both(list: &mut Vec<Bad>, value: &Value, reason: &'static str) {
    list.push(bad(
        &format!("JSON {value}"),
        value.to_string().as_bytes(),
        reason,
    ));
    list.push(bad(&format!("MessagePack {value}"), &packed(value), reason));
}

/// All rows of the list for `market-data`. The last price before them has the present time as its
/// timestamp.
pub fn ticks() -> Vec<Bad> {
    let mut all = Vec::new();
    for price in [
        json!(0),
        json!("0"),
        json!(-1),
        json!("-0.01"),
        json!(1e308),
        json!("NaN"),
        json!("inf"),
        json!(1.00001),
        json!("461168601842738.7905"),
    ] {
        both(
            &mut all,
            &json!({"symbol": "AAPL", "price": price}),
            "INVALID_PRICE",
        );
    }

    all.push(bad(
        "MessagePack NaN",
        b"\x82\xa6symbol\xa4AAPL\xa5price\xcb\x7f\xf8\x00\x00\x00\x00\x00\x00",
        "INVALID_PRICE",
    ));
    let ahead = os::clock::wall_ms() + 60_000;
    for time in [
        json!(ahead),
        json!(ahead / 1000),
        json!(ahead * 1000),
        json!(ahead * 1_000_000),
        json!(99_999_999_999_i64),
    ] {
        both(
            &mut all,
            &json!({"symbol": "AAPL", "price": 7, "timestamp": time}),
            "FUTURE_TIMESTAMP",
        );
    }

    for value in [
        json!({"symbol": "AAPL"}),
        json!({"price": 7}),
        json!({"symbol": "MSFT", "price": 7}),
        json!({"symbol": 1, "price": 7}),
        json!({"symbol": "AAPL", "price": "cheap"}),
        json!({"symbol": "AAPL", "price": [7]}),
        json!({"symbol": "AAPL", "price": 7, "seq": "1"}),
        json!({"symbol": "AAPL", "price": 7, "seq": -1}),
        json!({"symbol": "AAPL", "price": 7, "source": 1}),
        json!({"symbol": "AAPL", "price": 7, "size": true}),
        json!({"symbol": "AAPL", "price": 7, "timestamp": "x"}),
    ] {
        both(&mut all, &value, "MALFORMED");
    }

    for (name, value) in [
        ("empty", &b""[..]),
        ("rubbish", b"rubbish"),
        ("a key twice", br#"{"symbol":"AAPL","price":7,"price":7}"#),
        ("bytes after the end", br#"{"symbol":"AAPL","price":7}x"#),
    ] {
        all.push(bad(name, value, "MALFORMED"));
    }

    let good = br#"{"symbol":"AAPL","price":7}"#;
    all.push(Bad {
        key: Some(b"MSFT".to_vec()),
        ..bad(
            "not listed",
            br#"{"symbol":"MSFT","price":7}"#,
            "UNKNOWN_SYMBOL",
        )
    });

    all.push(Bad {
        misplaced: true,
        ..bad("wrong partition", good, "MISPARTITIONED")
    });

    all.push(Bad {
        key: None,
        ..bad("no key", good, "MALFORMED")
    });

    all.push(Bad {
        value: None,
        ..bad("no value", good, "MALFORMED")
    });

    all.push(bad("too large", &[b' '; 65_537], "OVERSIZE"));

    // A late tick is no bad record: the role counts the tick and moves no price.
    let late = br#"{"symbol":"AAPL","price":7,"timestamp":1625159076}"#;
    all.push(Bad {
        reason: None,
        ..bad("late", late, "")
    });

    all
}

/// Bad records of `instruments`. All are about a listed stock.
pub fn instruments() -> Vec<Bad> {
    let mut all = Vec::new();
    for value in [
        json!({}),
        json!({"symbol": "MSFT"}),
        json!({"symbol": 1}),
        json!({"symbol": "AAPL", "status": "asleep"}),
        json!({"symbol": "AAPL", "tick": 0}),
        json!({"symbol": "AAPL", "tick": "0.00001"}),
        json!({"symbol": "AAPL", "lot": 1.5}),
        json!({"symbol": "AAPL", "max_quantity": 0}),
        json!({"symbol": "AAPL", "max_notional": -1}),
        json!({"symbol": "AAPL", "collar_bps": -1}),
        json!({"symbol": "AAPL", "band_bps": "wide"}),
        json!({"symbol": "AAPL", "house": 1}),
        json!({"symbol": "AAPL", "short_ok": "yes"}),
        json!({"symbol": "AAPL", "test_issue": 1}),
        json!({"symbol": "AAPL", "currency": ""}),
        json!({"symbol": "AAPL", "name": 1}),
    ] {
        both(&mut all, &value, "MALFORMED");
    }

    for (name, value) in [
        ("empty", &b""[..]),
        ("rubbish", b"rubbish"),
        ("a key twice", br#"{"symbol":"AAPL","lot":9,"lot":9}"#),
    ] {
        all.push(bad(name, value, "MALFORMED"));
    }

    // The topic is compacted, so the log refuses a record without a key. No such row is possible.
    all.push(Bad {
        key: Some(b"A B".to_vec()),
        ..bad(
            "a key that is no symbol",
            br#"{"symbol":"A B"}"#,
            "MALFORMED",
        )
    });

    let mut large = br#"{"symbol":"AAPL","status":"halted","name":"#.to_vec();
    large.push(b'"');
    large.resize(65_600, b'x');
    large.extend_from_slice(b"\"}");
    all.push(bad("too large", &large, "OVERSIZE"));
    all
}
