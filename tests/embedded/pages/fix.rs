//! The FIX page maps all there is: every command, event, status and field of `order-events`.

use domain::reason::Reason;
use domain::status::{Liquidity, Side, Status};
use wire::command::{Kind, OrderType, TimeInForce};
use wire::event::{Event, OrderEvent};

/// An event with every field there is. No `..`: a new field must be added here, and to the page.
fn full() -> OrderEvent<'static> {
    OrderEvent {
        event: Event::OrderFilled,
        user_id: "u",
        user_seq: 1,
        time_us: 1,
        cash_available_e4: 1,
        cash_reserved_e4: 1,
        order_id: Some("o"),
        cause_id: Some("o"),
        symbol: Some("S"),
        side: Some(Side::Buy),
        quantity: Some(1),
        cum_quantity: Some(1),
        leaves_quantity: Some(0),
        cum_value_e4: Some(1),
        status: Some(Status::Filled),
        limit_price_e4: Some(1),
        reason: Some(Reason::Operator),
        text: Some("t"),
        retry_after_ms: Some(1),
        conflict_field: Some("f"),
        trade_id: Some("t"),
        last_quantity: Some(1),
        last_price_e4: Some(1),
        fee_e4: Some(1),
        liquidity: Some(Liquidity::House),
        amount_e4: Some(1),
        trigger_price_e4: Some(1),
        unanswered: Some(1),
        order_type: Some(OrderType::Stop),
        tif: Some(TimeInForce::Gtd),
        stop_price_e4: Some(1),
        expire_at_us: Some(1),
        post_only: true,
        average_price_e4: Some(1),
    }
}

#[test]
fn fix_page_has_every_word_of_commands_and_events() {
    let page = include_str!("../../../docs/clients/fix.md");
    let contract = include_str!("../../../docs/contract.md");
    let mut bytes = Vec::new();
    full().encode(&mut bytes);
    let fields: serde_json::Map<String, serde_json::Value> =
        rmp_serde::from_slice(&bytes).expect("MessagePack");

    let mut words: Vec<&str> = fields.keys().map(String::as_str).collect();
    words.extend(Event::ALL.iter().map(|e| e.name()));
    words.extend(Status::ALL.iter().map(|s| s.name()));
    words.extend(Kind::ALL.iter().map(|k| k.name()));
    words.extend(OrderType::ALL.iter().map(|t| t.name()));
    words.extend(TimeInForce::ALL.iter().map(|t| t.name()));
    words.extend(Liquidity::ALL.iter().map(|l| l.name()));

    let missing = |text: &str| -> Vec<&str> {
        let told = |word: &&str| text.contains(&format!("`{word}`"));
        words.iter().copied().filter(|w| !told(w)).collect()
    };

    assert_eq!(missing(page), [""; 0], "docs/clients/fix.md lacks words");
    assert_eq!(missing(contract), [""; 0], "docs/contract.md lacks words");
}
