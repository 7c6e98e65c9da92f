//! Encodes the records of clients: commands, ticks and reference data, as MessagePack or JSON. The
//! encoder checks nothing; the readers check everything.

use domain::status::Side;

use super::writer::MapWriter;

/// Format of a value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Encoding {
    #[default]
    MessagePack,
    Json,
}

/// Value of a field. Decimals are text, so that no reader's float rounds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Field<'a> {
    /// Text, or a decimal number.
    Text(&'a str),
    /// A whole number.
    Int(i64),
    /// True or false.
    Flag(bool),
}

/// Appends a map of these fields.
pub fn fields(format: Encoding, fields: &[(&str, Field<'_>)], out: &mut Vec<u8>) {
    match format {
        Encoding::MessagePack => {
            let mut w = MapWriter::begin(out);
            for (name, value) in fields {
                match value {
                    Field::Text(t) => w.text(name, t),
                    Field::Int(n) => w.int(name, *n),
                    Field::Flag(b) => w.flag(name, *b),
                };
            }

            w.end();
        }
        Encoding::Json => {
            out.push(b'{');
            for (i, (name, value)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(b',');
                }

                json_text(name, out);
                out.push(b':');
                match value {
                    Field::Text(t) => json_text(t, out),
                    Field::Int(n) => out.extend_from_slice(n.to_string().as_bytes()),
                    Field::Flag(b) => out.extend_from_slice(b.to_string().as_bytes()),
                }
            }

            out.push(b'}');
        }
    }
}

fn json_text(text: &str, out: &mut Vec<u8>) {
    out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes());
}

/// A plain market order with six fields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub struct MarketOrder<'a> {
    pub order_id: &'a str,
    pub user_id: &'a str,
    pub symbol: &'a str,
    pub quantity: i64,
    pub side: Side,
    pub timestamp: Option<i64>,
}

impl MarketOrder<'_> {
    /// Appends the order in the given format.
    pub fn encode(&self, format: Encoding, out: &mut Vec<u8>) {
        let all = [
            ("order_id", Field::Text(self.order_id)),
            ("user_id", Field::Text(self.user_id)),
            ("symbol", Field::Text(self.symbol)),
            ("quantity", Field::Int(self.quantity)),
            ("order_type", Field::Text(self.side.name())),
            ("timestamp", Field::Int(self.timestamp.unwrap_or_default())),
        ];

        let count = if self.timestamp.is_some() { 6 } else { 5 };
        fields(format, &all[..count], out);
    }
}

/// Appends a deposit (`deposit`) or withdrawal (`withdraw`) of a decimal amount.
pub fn transfer(
    format: Encoding,
    command: &str,
    order_id: &str,
    user_id: &str,
    amount: &str,
    out: &mut Vec<u8>,
) {
    let all = [
        ("command", Field::Text(command)),
        ("order_id", Field::Text(order_id)),
        ("user_id", Field::Text(user_id)),
        ("amount", Field::Text(amount)),
    ];
    fields(format, &all, out);
}

/// Appends a tick. The price is a decimal number as text.
pub fn tick(
    format: Encoding,
    symbol: &str,
    price: &str,
    timestamp: Option<i64>,
    out: &mut Vec<u8>,
) {
    let all = [
        ("symbol", Field::Text(symbol)),
        ("price", Field::Text(price)),
        ("timestamp", Field::Int(timestamp.unwrap_or_default())),
    ];
    fields(format, &all[..if timestamp.is_some() { 3 } else { 2 }], out);
}

#[cfg(test)]
mod tests {
    use super::super::{command, tick};
    use super::*;

    #[test]
    fn what_clients_write_is_what_we_read() {
        let order = MarketOrder {
            order_id: "\"1",
            user_id: "u\\",
            symbol: "A",
            quantity: 10,
            side: Side::Sell,
            timestamp: Some(1_625_159_076),
        };

        let mut packed = Vec::new();
        let mut json = Vec::new();
        order.encode(Encoding::MessagePack, &mut packed);
        order.encode(Encoding::Json, &mut json);
        let c = command::decode(&packed).expect("a command");
        assert_eq!(c, command::decode(&json).expect("a command"));
        assert_eq!(
            (&*c.order_id, &*c.user_id, c.side, c.timestamp_ns),
            (
                "\"1",
                "u\\",
                Some(Side::Sell),
                Some(1_625_159_076_000_000_000)
            )
        );

        packed.clear();
        super::tick(Encoding::MessagePack, "A", "1.5", None, &mut packed);
        assert_eq!(
            tick::decode(&packed).expect("a tick").price,
            domain::decimal::Num::Exact(15_000)
        );
    }
}
