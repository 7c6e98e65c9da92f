//! The configuration files for a desk (docs/operating/production.md) can be read, and prevent the
//! losses named on that page.

use roles::RoleSettings;
use serde_json::{Map, Value, json};
use wire::topics;

use super::driver::World;

const SETTINGS: &str = include_str!("../../../../docker/processor.production.toml");
const LISTINGS: &str = include_str!("../../../../docker/listings.production.csv");

fn settings() -> RoleSettings {
    let file: toml::Table = SETTINGS.parse().expect("TOML");
    let n = |name: &str| {
        file[name]
            .as_integer()
            .unwrap_or_else(|| panic!("{name} is no number"))
    };

    RoleSettings {
        opening_cash_e4: n("opening_cash") * 10_000,
        stale_ms: n("stale_ms") as u64,
        rate_limit: n("rate_limit") as u32,
        burst: n("burst") as u32,
        message_rate_factor: n("message_rate_factor") as u32,
        open_orders_max: n("open_orders_max") as u64,
        client_transfers: file["client_transfers"].as_bool().expect("true or false"),
        ..RoleSettings::default()
    }
}

/// The listing of a symbol in the file.
fn listing(symbol: &str) -> String {
    let mut rows = LISTINGS.lines().map(|row| row.split(','));
    let names: Vec<&str> = rows.next().expect("a header").collect();
    let row = rows
        .find(|row| row.clone().next() == Some(symbol))
        .expect("the symbol is listed");
    let field = |(name, cell): (&&str, &str)| {
        let value = match cell {
            "true" | "false" => Value::Bool(cell == "true"),
            _ if ["symbol", "name"].contains(name) => Value::String(cell.into()),
            _ => cell.parse().expect("a number"),
        };

        (name.to_string(), value)
    };

    let fields: Map<String, Value> = names
        .iter()
        .zip(row)
        .filter(|(_, cell)| !cell.is_empty())
        .map(field)
        .collect();
    json!(fields).to_string()
}

fn desk() -> World {
    let mut w = World::new(1, settings());
    w.list("AAPL", &listing("AAPL"));
    w.tick("AAPL", "100");
    w.pump();
    w
}

fn deposit(w: &mut World, user: &str, amount: i64) {
    let command = json!({"user_id": user, "order_id": "cash", "command": "deposit", "amount": amount, "operator": "ana"});
    w.append(
        topics::OPERATOR_COMMANDS,
        user,
        command.to_string().as_bytes(),
    );
    w.pump();
}

/// Cash in whole units after the user's last event.
fn cash(w: &World, user: &str) -> i64 {
    w.last(user)["cash_available_e4"]
        .as_i64()
        .expect("a number")
        / 10_000
}

fn trade(w: &mut World, user: &str, id: &str, quantity: &str, side: &str) -> Value {
    w.order(user, id, "AAPL", quantity, side);
    w.pump();
    w.last(user)
}

#[test]
fn a_user_who_is_not_known_has_nothing_and_cannot_make_money() {
    let mut w = desk();
    assert_eq!(
        trade(&mut w, "nobody", "1", "1", "buy")["reason"],
        "INSUFFICIENT_FUNDS"
    );
    let deposit =
        json!({"user_id": "nobody", "order_id": "2", "command": "deposit", "amount": 1_000_000});
    w.append(
        topics::ORDER_COMMANDS,
        "nobody",
        deposit.to_string().as_bytes(),
    );
    w.pump();
    assert_eq!(w.last("nobody")["reason"], "NOT_AUTHORIZED");
}

/// With the default settings, a user with 1 000 000 made 90 000 000 out of this.
#[test]
fn one_wrong_print_costs_the_house_nothing() {
    let mut w = desk();
    deposit(&mut w, "thief", 1_000_000);
    w.tick("AAPL", "1");
    w.pump();
    let bought = trade(&mut w, "thief", "1", "1000", "buy");
    assert_eq!(
        (&bought["event"], bought["last_price_e4"].as_i64()),
        (&json!("OrderFilled"), Some(1_001_000)),
        "at the last good price"
    );
    w.tick("AAPL", "100");
    w.pump();
    trade(&mut w, "thief", "2", "1000", "sell");
    assert!(cash(&w, "thief") < 1_000_000, "{}", cash(&w, "thief"));
}

/// Three wrong prints in a row are believed. The loss is bounded by the house's maximum for one
/// order at one quote.
#[test]
fn a_wrong_quote_has_a_bounded_price() {
    let mut w = desk();
    deposit(&mut w, "thief", 1_000_000);
    (0..3).for_each(|_| w.tick("AAPL", "50"));
    w.pump();
    assert_eq!(
        trade(&mut w, "thief", "1", "2001", "buy")["reason"],
        "CLIP_SIZE"
    );
    trade(&mut w, "thief", "2", "2000", "buy");
    (0..3).for_each(|_| w.tick("AAPL", "100"));
    w.pump();
    trade(&mut w, "thief", "3", "2000", "sell");
    assert!(
        cash(&w, "thief") < 1_000_000 + 1_000 * 50,
        "{}",
        cash(&w, "thief")
    );
}

#[test]
fn every_listing_of_the_file_trades() {
    let mut w = World::new(1, settings());
    for row in LISTINGS.lines().skip(1) {
        let symbol = row.split(',').next().expect("a symbol");
        w.list(symbol, &listing(symbol));
        w.tick(symbol, "100");
        w.pump();
        deposit(&mut w, symbol, 100_000);
        w.limit(symbol, "1", symbol, 1, "buy", "99", "");
        w.pump();
        assert_eq!(w.last(symbol)["event"], "OrderAccepted", "{symbol}");
    }

    assert_eq!(w.dead(), [""; 0]);
}
