//! A command that a request asks for: checked for what is wrong in itself, and encoded.
//!
//! The bytes of a JSON body go into the record as they came. So a number reaches `orders` as the
//! text that the client wrote.

use domain::decimal::Num;
use domain::reason::Reason;
use serde_json::{Map, Value, json};
use wire::command::{self, Command};
use wire::command_fingerprint;
use wire::input::{FieldValue, read_map};

use super::answer::{AwaitedAnswer, OrderContent, Stage};

/// Why a request is no command. Nothing was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum DraftError {
    /// The body cannot be understood.
    Malformed(String),
    /// `orders` would refuse the command, whatever its state.
    Refused(Reason, String),
}

/// A command before it is written.
#[derive(Clone, Debug)]
pub(crate) struct CommandDraft {
    pub user: String,
    /// Id of the command; for a new order also the id of the order.
    pub id: String,
    /// The order that the command is about; none for a mass cancel.
    pub order_id: Option<String>,
    /// For a mass cancel: the symbol, or all.
    pub symbol: Option<String>,
    pub value: Vec<u8>,
    /// False if the request is answered as soon as the command is in the log.
    pub wants_answer: bool,
    pub awaited: AwaitedAnswer,
}

impl CommandDraft {
    /// A new order from a JSON body. `key` is the id if the body has none; without both, an id is
    /// made. Without `stage`, the answer is the acceptance of an order that may rest, and the end
    /// of any other order.
    pub(crate) fn new_order(
        user: &str,
        body: &[u8],
        key: Option<&str>,
        stage: Option<Stage>,
    ) -> Result<CommandDraft, DraftError> {
        let body = ObjectBody::read(body, &["user_id", "command", "operator"])?;
        let id = match (&body.order_id, key) {
            (Some(own), Some(key)) if own != key => {
                return Err(malformed("order_id and Idempotency-Key differ: give one"));
            }
            (Some(id), _) => id.clone(),
            (None, Some(key)) => key.to_string(),
            (None, None) => new_id(),
        };

        let mut fields = Map::new();
        fields.insert("user_id".into(), user.into());
        if body.order_id.is_none() {
            fields.insert("order_id".into(), id.as_str().into());
        }

        let value = body.with(&fields);
        let c = decode(&value)?;
        check_new_order(&c)?;
        let stays = c.served().is_some_and(|order| order.stays());
        let usual = if stays { Stage::Accepted } else { Stage::Final };
        let mut content = Vec::new();
        command_fingerprint::put(&c, &mut content);
        Ok(CommandDraft {
            user: user.into(),
            order_id: Some(id.clone()),
            symbol: None,
            value,
            wants_answer: true,
            awaited: AwaitedAnswer::NewOrder {
                id: id.clone(),
                stage: stage.unwrap_or(usual),
                content: OrderContent(content),
                pending: false,
            },
            id,
        })
    }

    /// A replacement of an order's quantity or limit, from a JSON body.
    pub(crate) fn replacement(
        user: &str,
        order_id: &str,
        body: &[u8],
        key: Option<&str>,
    ) -> Result<CommandDraft, DraftError> {
        let not_here = [
            "user_id",
            "command",
            "operator",
            "order_id",
            "orig_order_id",
        ];
        let body = ObjectBody::read(body, &not_here)?;
        let (id, fields) = change("replace", user, order_id, key);
        let value = body.with(&fields);
        let c = decode(&value)?;
        check_asked(&c)?;
        if c.quantity.is_none() && c.limit_price.is_none() {
            return Err(malformed("give quantity, limit_price or both"));
        }

        check_positive(c.quantity, Reason::IncorrectQuantity)?;
        check_positive(c.limit_price, Reason::InvalidPriceIncrement)?;
        Ok(CommandDraft::about(user, order_id, id, value))
    }

    /// A cancel of an order.
    pub(crate) fn cancel(
        user: &str,
        order_id: &str,
        key: Option<&str>,
    ) -> Result<CommandDraft, DraftError> {
        let (id, fields) = change("cancel", user, order_id, key);
        let value = Value::Object(fields).to_string().into_bytes();
        decode(&value)?;
        Ok(CommandDraft::about(user, order_id, id, value))
    }

    /// A cancel of all open orders, or of those of one symbol.
    pub(crate) fn mass_cancel(
        user: &str,
        symbol: Option<&str>,
        key: Option<&str>,
    ) -> Result<CommandDraft, DraftError> {
        let id = key.map_or_else(new_id, String::from);
        let mut command = json!({ "command": "mass_cancel", "user_id": user, "order_id": id });
        if let Some(symbol) = symbol {
            command["symbol"] = symbol.into();
        }

        let value = command.to_string().into_bytes();
        decode(&value)?;
        Ok(CommandDraft {
            user: user.into(),
            order_id: None,
            symbol: symbol.map(String::from),
            value,
            wants_answer: true,
            awaited: AwaitedAnswer::MassCancel {
                id: id.clone(),
                begun: false,
            },
            id,
        })
    }

    fn about(user: &str, order_id: &str, id: String, value: Vec<u8>) -> CommandDraft {
        CommandDraft {
            user: user.into(),
            order_id: Some(order_id.into()),
            symbol: None,
            value,
            wants_answer: true,
            awaited: AwaitedAnswer::Change { id: id.clone() },
            id,
        }
    }
}

fn new_id() -> String {
    uuid::Uuid::now_v7().to_string()
}

/// Id and fields of a command about an order.
fn change(
    command: &str,
    user: &str,
    order_id: &str,
    key: Option<&str>,
) -> (String, Map<String, Value>) {
    let id = key.map_or_else(new_id, String::from);
    let fields = [
        ("command", command),
        ("user_id", user),
        ("order_id", &id),
        ("orig_order_id", order_id),
    ];
    let fields = fields.map(|(name, value)| (name.to_string(), Value::from(value)));
    let fields = Map::from_iter(fields);
    (id, fields)
}

fn malformed(text: impl Into<String>) -> DraftError {
    DraftError::Malformed(text.into())
}

fn decode(value: &[u8]) -> Result<Command<'_>, DraftError> {
    command::decode(value).map_err(|m| malformed(m.text))
}

/// Refuses a command with a field that asks for what would not be done.
fn check_asked(c: &Command<'_>) -> Result<(), DraftError> {
    let reason = Reason::UnsupportedCharacteristic;
    match c.unlike {
        Some(_) => Err(DraftError::Refused(reason, c.text(reason).into_owned())),
        None => Ok(()),
    }
}

fn check_positive(number: Option<Num>, reason: Reason) -> Result<(), DraftError> {
    match number {
        Some(n) if n.positive().is_none() => Err(refused(reason)),
        _ => Ok(()),
    }
}

fn refused(reason: Reason) -> DraftError {
    DraftError::Refused(reason, reason.text().into())
}

/// Checks an order as far as its own fields decide.
fn check_new_order(c: &Command<'_>) -> Result<(), DraftError> {
    check_asked(c)?;
    check_positive(c.quantity, Reason::IncorrectQuantity)?;
    if c.served().is_none() {
        return Err(refused(Reason::UnsupportedCharacteristic));
    }

    check_positive(c.limit_price, Reason::InvalidPriceIncrement)?;
    check_positive(c.stop_price, Reason::InvalidPriceIncrement)
}

/// A JSON object as it came.
struct ObjectBody<'a> {
    /// The bytes after the opening brace.
    fields: &'a [u8],
    order_id: Option<String>,
}

impl<'a> ObjectBody<'a> {
    /// Reads a body that has none of the fields `not_here`.
    fn read(body: &'a [u8], not_here: &[&str]) -> Result<ObjectBody<'a>, DraftError> {
        let body = body.trim_ascii();
        let fields = body.strip_prefix(b"{");
        let fields = fields.ok_or_else(|| malformed("the body must be one JSON object"))?;
        let mut order_id = None;
        let mut found = None;
        let fault = read_map(body, |name, value| {
            if let Some(name) = not_here.iter().find(|n| **n == name) {
                found = Some(*name);
            } else if name == "order_id" {
                order_id = Some(value);
            }
        });

        match (fault, found) {
            (Err(fault) | Ok(Some(fault)), _) => return Err(malformed(fault)),
            (Ok(None), Some(name)) => {
                return Err(malformed(format!(
                    "{name} has no place in the body: the path and the method say it"
                )));
            }
            (Ok(None), None) => {}
        }

        let order_id = match order_id {
            Some(FieldValue::Text(id)) => Some(id.into_owned()),
            Some(_) => return Err(malformed("order_id is not text")),
            None => None,
        };

        Ok(ObjectBody { fields, order_id })
    }

    /// The object with more fields before its own.
    fn with(&self, fields: &Map<String, Value>) -> Vec<u8> {
        let mut value = Value::from(fields.clone()).to_string().into_bytes();
        value.pop();
        if !self.fields.trim_ascii_start().starts_with(b"}") {
            value.push(b',');
        }

        value.extend_from_slice(self.fields);
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(body: &str) -> Result<CommandDraft, DraftError> {
        CommandDraft::new_order("5\"1", body.as_bytes(), None, None)
    }

    fn text(draft: &CommandDraft) -> &str {
        std::str::from_utf8(&draft.value).expect("JSON")
    }

    #[test]
    fn numbers_reach_the_record_as_they_were_written() {
        let body = r#" { "order_id":"a","symbol":"AAPL","quantity":1e1,"order_type":"buy","type":"limit","limit_price":189.2500 } "#;
        let draft = order(body).expect("an order");
        assert_eq!(
            text(&draft),
            r#"{"user_id":"5\"1", "order_id":"a","symbol":"AAPL","quantity":1e1,"order_type":"buy","type":"limit","limit_price":189.2500 }"#
        );
        let AwaitedAnswer::NewOrder { stage, .. } = &draft.awaited else {
            panic!("not an order");
        };
        assert_eq!(*stage, Stage::Accepted);
    }

    #[test]
    fn id_comes_from_the_body_or_the_key_or_is_made() {
        let fields = r#""symbol":"AAPL","quantity":1,"order_type":"sell""#;
        let with_key = |body: &str, key| CommandDraft::new_order("501", body.as_bytes(), key, None);
        let bare = format!("{{{fields}}}");
        assert_eq!(with_key(&bare, Some("k-1")).expect("an order").id, "k-1");
        assert_eq!(with_key(&bare, None).expect("an order").id.len(), 36);
        let own = format!(r#"{{"order_id":"k-2",{fields}}}"#);
        assert_eq!(with_key(&own, Some("k-2")).expect("an order").id, "k-2");
        for (body, key) in [
            (&*own, Some("k-1")),
            (&bare, Some("a/b")),
            (&bare, Some("")),
        ] {
            assert!(
                matches!(with_key(body, key), Err(DraftError::Malformed(_))),
                "{body} {key:?}"
            );
        }
    }

    #[test]
    fn what_is_wrong_in_itself_is_refused() {
        let with = |more: &str| {
            order(&format!(
                r#"{{"symbol":"AAPL","quantity":1,"order_type":"buy"{more}}}"#
            ))
        };
        assert!(with("").is_ok());
        for more in [
            r#","user_id":"501""#,
            r#","operator":"o""#,
            r#","command":"deposit""#,
            r#","order_id":7"#,
            r#","quantity":2"#,
            r#","type":3"#,
        ] {
            assert!(
                matches!(with(more), Err(DraftError::Malformed(_))),
                "{more}"
            );
        }

        for body in ["", "[]", "{", "7", "{}", "{}x"] {
            assert!(
                matches!(order(body), Err(DraftError::Malformed(_))),
                "{body}"
            );
        }

        for (more, reason) in [
            (r#","limit_price":"1""#, Reason::UnsupportedCharacteristic),
            (r#","reduce_only":true"#, Reason::UnsupportedCharacteristic),
            (r#","tif":"SOON""#, Reason::UnsupportedCharacteristic),
            (
                r#","type":"limit","limit_price":"-1""#,
                Reason::InvalidPriceIncrement,
            ),
            (
                r#","type":"stop","stop_price":"0""#,
                Reason::InvalidPriceIncrement,
            ),
        ] {
            let got = with(more).map(|d| d.id);
            assert!(
                matches!(&got, Err(DraftError::Refused(r, _)) if *r == reason),
                "{more}: {got:?}"
            );
        }

        let none = order(r#"{"symbol":"AAPL","quantity":0.5,"order_type":"buy"}"#);
        assert!(matches!(
            none,
            Err(DraftError::Refused(Reason::IncorrectQuantity, _))
        ));
    }

    #[test]
    fn changes_name_the_order_and_have_an_id_of_their_own() {
        let body = br#"{"quantity":5}"#;
        let draft = CommandDraft::replacement("501", "o-1", body, Some("r-1")).expect("good");
        assert_eq!(
            text(&draft),
            r#"{"command":"replace","user_id":"501","order_id":"r-1","orig_order_id":"o-1","quantity":5}"#
        );
        assert_eq!(draft.order_id.as_deref(), Some("o-1"));
        for bad in [
            &b"{}"[..],
            br#"{"order_id":"x","quantity":5}"#,
            br#"{"limit_price":true}"#,
        ] {
            assert!(matches!(
                CommandDraft::replacement("501", "o-1", bad, None),
                Err(DraftError::Malformed(_))
            ));
        }

        for bad in [
            &br#"{"quantity":5,"tif":"GTC"}"#[..],
            br#"{"limit_price":"0"}"#,
        ] {
            assert!(matches!(
                CommandDraft::replacement("501", "o-1", bad, None),
                Err(DraftError::Refused(..))
            ));
        }

        let draft = CommandDraft::cancel("501", "o-1", Some("c-1")).expect("good");
        assert_eq!(
            text(&draft),
            r#"{"command":"cancel","user_id":"501","order_id":"c-1","orig_order_id":"o-1"}"#
        );
        let draft = CommandDraft::mass_cancel("501", Some("AAPL"), Some("m-1")).expect("good");
        assert_eq!(
            text(&draft),
            r#"{"command":"mass_cancel","user_id":"501","order_id":"m-1","symbol":"AAPL"}"#
        );
        assert!(CommandDraft::mass_cancel("501", Some("A/B"), None).is_err());
    }
}
