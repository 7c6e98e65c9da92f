use proptest::prelude::*;

use super::*;

fn bytes(put: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut out = Vec::new();
    put(&mut out);
    out
}

/// In-memory store that records its queries.
#[derive(Default)]
struct Store {
    sells: BTreeMap<String, Sell>,
    positions: BTreeMap<String, Holding>,
    asked: Vec<String>,
}

impl PortfolioRows for Store {
    fn sell(&mut self, order_id: &str) -> Result<Option<Sell>, &'static str> {
        self.asked.push(order_id.to_string());
        Ok(self.sells.get(order_id).cloned())
    }

    fn position(&mut self, symbol: &str) -> Result<Option<Holding>, &'static str> {
        self.asked.push(symbol.to_string());
        Ok(self.positions.get(symbol).copied())
    }

    fn positions(&mut self) -> Result<Vec<(String, Holding)>, &'static str> {
        self.asked.push("all".to_string());
        Ok(self
            .positions
            .iter()
            .map(|(s, h)| (s.clone(), *h))
            .collect())
    }
}

/// Writes the changed rows and the record, and reads the state again.
fn stored(mut s: PortfolioState, store: &mut Store) -> PortfolioState {
    for (id, _, now) in s.changed_sells() {
        store.sells.remove(id);
        store
            .sells
            .extend(now.map(|now| (id.to_string(), now.clone())));
    }

    for (id, _, now) in s.changed_positions() {
        store.positions.remove(id);
        store
            .positions
            .extend(now.map(|now| (id.to_string(), *now)));
    }

    s.count_apart();
    PortfolioState::read("u", &bytes(|out| s.put(out))).expect("readable")
}

fn sell(leaves: i64) -> Sell {
    Sell {
        symbol: "A".into(),
        leaves,
    }
}

/// A position with an open sell of 2.
fn state(in_store: Option<Sell>) -> PortfolioState {
    let mut s = PortfolioState::new("u");
    s.portfolio.user_seq = 3;
    s.portfolio.realised_e4 = -1;
    s.portfolio.positions.insert(
        "A".into(),
        Holding {
            quantity: 5,
            reserved: 2,
            cost_basis_e4: 6,
        },
    );

    s.sells.insert(
        "1".into(),
        InHand {
            stored: in_store,
            now: Some(sell(2)),
        },
    );

    s
}

/// Golden bytes: later versions must read the bytes of this version.
#[test]
fn golden_bytes() {
    let s = state(None);
    let user = bytes(|out| s.put(out));
    assert_eq!(
        user,
        [2, 3, 0, 0, 1, 0, 1, 1, b'A', 10, 4, 12],
        "a small portfolio is as in version 2"
    );
    let read = PortfolioState::read("u", &user).expect("readable");
    assert_eq!(
        (&read.portfolio, read.sells.len(), read.rows),
        (&s.portfolio, 0, 0)
    );
    let rows: Vec<_> = s
        .changed_sells()
        .map(|(id, _, now)| (id, bytes(|out| now.expect("open").put_row(out))))
        .collect();
    assert_eq!(rows, [("1", vec![1, 1, b'A', 4])]);
    assert_eq!(
        Sell::read_row(&rows[0].1).as_ref(),
        s.sells["1"].now.as_ref()
    );
    assert_eq!(
        show("u\x001", &rows[0].1),
        Some((
            "sell/u/1".into(),
            json!({"symbol": "A", "leaves_quantity": 2})
        ))
    );

    let h = Holding {
        quantity: -5,
        reserved: 2,
        cost_basis_e4: 300,
    };

    let row = bytes(|out| h.put_row(out));
    assert_eq!(
        (&row[..], Holding::read_row(&row)),
        (&[1, 9, 4, 0xd8, 4][..], Some(h))
    );
    let shown = json!({"quantity": -5, "reserved": 2, "cost_basis_e4": 300});
    assert_eq!(show("u\x01A", &row), Some(("position/u/A".into(), shown)));
    let mut apart = state(None);
    (apart.rows, apart.portfolio.positions_apart) = (300, 299);
    apart.kept_sells.insert("7".into(), sell(1));
    let user = bytes(|out| apart.put(out));
    assert_eq!(
        user,
        [
            3, 3, 0, 0, 1, 0, 0xac, 2, 0xab, 2, 1, 1, b'A', 10, 4, 12, 1, 1, b'7', 1, b'A', 2
        ]
    );
    let read = PortfolioState::read("u", &user).expect("readable");
    assert_eq!(
        (&read.portfolio, read.rows, &read.kept_sells),
        (&apart.portfolio, 300, &apart.kept_sells)
    );
    assert_eq!(
        (
            PortfolioState::read("u", &[4]),
            Sell::read_row(&[2, 1, b'A', 4]),
            Holding::read_row(&[2, 1, 1, 1])
        ),
        (None, None, None),
        "newer versions"
    );
}

#[test]
fn version_1_is_read_for_ever() {
    let with_sells = [
        1, 3, 0, 0, 1, 0, 1, 1, b'A', 10, 4, 12, 1, 1, b'1', 1, b'A', 4,
    ];
    let (_, shown) = show("u", &with_sells).expect("readable");
    assert_eq!(
        shown["open_sells"],
        json!({"1": {"symbol": "A", "leaves_quantity": 2}})
    );
    let mut s = PortfolioState::read("u", &with_sells).expect("readable");
    s.settle(&mut Store::default()).expect("rows");
    assert_eq!(
        s,
        state(None),
        "its sells are in hand, and no row has them yet"
    );
}

#[test]
fn rows_are_written_if_and_only_if_they_changed() {
    let mut s = state(Some(sell(2)));
    let mut rows = Store {
        sells: [("2".to_string(), sell(1))].into(),
        ..Store::default()
    };

    s.portfolio.positions.get_mut("A").expect("there").reserved += 1;
    assert_eq!(s.changed_sells().count(), 0);
    for id in ["2", "buy"] {
        s.release(id, None, &mut rows).expect("a good release");
    }

    s.hold("3", "A", 1, &mut rows).expect("a good hold");
    s.hold("4", "A", 1, &mut rows).expect("a good hold");
    s.release("3", Some(1), &mut rows).expect("came and went");
    s.release("1", Some(1), &mut rows).expect("some of it");
    let changed: Vec<_> = s
        .changed_sells()
        .map(|(id, _, now)| (id, now.map(|s| s.leaves)))
        .collect();
    assert_eq!(changed, [("1", Some(1)), ("2", None), ("4", Some(1))]);
    assert_eq!(s.portfolio.positions["A"].reserved, 2);
    assert!(s.hold("4", "A", 1, &mut rows).is_err() && s.release("1", Some(2), &mut rows).is_err());
    assert_eq!(
        rows.asked,
        ["2", "buy", "3", "4"],
        "what is in hand is not read again"
    );
}

fn buy(s: &mut PortfolioState, symbol: &str, rows: &mut Store) {
    s.trade(symbol, Side::Buy, (1, 10, 0), rows)
        .expect("a good trade");
    s.settle(rows).expect("rows");
}

fn close(s: &mut PortfolioState, symbol: &str, rows: &mut Store) {
    s.trade(symbol, Side::Sell, (1, 10, 0), rows)
        .expect("a good trade");
    s.settle(rows).expect("rows");
}

#[test]
fn a_portfolio_splits_above_256_positions_and_joins_at_128() {
    let name = |n: usize| format!("{n:04}");
    let mut s = PortfolioState::new("u");
    let mut store = Store::default();
    (0..WHOLE_MAX).for_each(|n| buy(&mut s, &name(n), &mut store));
    let mut s = stored(s, &mut store);
    assert_eq!(
        (
            s.portfolio.positions.len(),
            s.rows,
            store.positions.len(),
            store.asked.len()
        ),
        (256, 0, 0, 0)
    );

    buy(&mut s, &name(256), &mut store);
    let mut s = stored(s, &mut store);
    assert_eq!(
        (
            s.portfolio.positions.len(),
            s.rows,
            s.portfolio.positions_apart,
            store.positions.len()
        ),
        (0, 257, 257, 257)
    );

    // From now on an event touches only the rows that the event names.
    store.asked.clear();
    buy(&mut s, &name(7), &mut store);
    buy(&mut s, &name(1_000), &mut store);
    assert_eq!(
        s.changed_positions()
            .map(|(symbol, _, _)| symbol)
            .collect::<Vec<_>>(),
        ["0007", "1000"]
    );
    assert_eq!(store.asked, ["0007", "1000", "1000"].map(String::from)[..2]);
    close(&mut s, &name(7), &mut store);
    close(&mut s, &name(1_000), &mut store);
    assert_eq!(s.changed_positions().count(), 0, "as before");

    // Half of the positions go, and the rows stay; then one position more goes.
    for n in 0..129 {
        s = stored(s, &mut store);
        assert_eq!(s.rows, 257 - n as u64);
        close(&mut s, &name(n), &mut store);
    }

    let s = stored(s, &mut store);
    assert_eq!(
        (
            s.portfolio.positions.len(),
            s.rows,
            s.portfolio.positions_apart,
            store.positions.len()
        ),
        (128, 0, 0, 0)
    );

    let all: Vec<_> = s.portfolio.positions.keys().cloned().collect();
    assert_eq!(all, (129..257).map(name).collect::<Vec<_>>());
}

#[test]
fn state_of_an_older_version_moves_in_parts_without_loss() {
    let mut s = PortfolioState::new("u");
    let mut store = Store::default();
    s.portfolio.positions = (0..1_200)
        .map(|n| {
            (
                format!("{n:04}"),
                Holding {
                    quantity: n + 1,
                    ..Holding::default()
                },
            )
        })
        .collect();

    let old = bytes(|out| s.put(out));
    assert_eq!(old[0], 2);
    let mut s = PortfolioState::read("u", &old).expect("readable");
    for (inline, rows) in [(700, 500), (200, 1_000), (0, 1_200), (0, 1_200)] {
        // First an event about a position in the record, last about a position in a row.
        let holding = s
            .position("1199", &mut store)
            .expect("readable")
            .expect("there");
        holding.quantity += 1;
        s.settle(&mut store).expect("rows");
        assert!(s.changed_positions().count() <= MOVED_AT_ONCE);
        s = stored(s, &mut store);
        assert_eq!(
            (s.portfolio.positions.len(), s.rows, store.positions.len()),
            (inline, rows as u64, rows)
        );
    }

    assert_eq!(store.positions["1199"].quantity, 1_204);
    assert_eq!(store.positions["0003"].quantity, 4);
}

/// A published portfolio omits zero positions, in rows or in the record.
#[test]
fn an_empty_position_held_by_sells_is_a_row_and_is_not_counted() {
    let mut s = PortfolioState::new("u");
    let mut store = Store::default();
    (0..300).for_each(|n| buy(&mut s, &format!("{n:04}"), &mut store));
    s.hold("1", "short", 5, &mut store).expect("a good hold");
    let mut s = stored(s, &mut store);
    assert_eq!(
        (s.rows, s.portfolio.positions_apart, store.positions.len()),
        (301, 300, 301)
    );
    s.release("1", None, &mut store).expect("a good release");
    s.drop_empty("short");
    let s = stored(s, &mut store);
    assert_eq!(
        (s.rows, s.portfolio.positions_apart, store.positions.len()),
        (300, 300, 300)
    );
}

proptest! {
    #[test]
    fn any_bytes(bytes: Vec<u8>) {
        let _ = PortfolioState::read("u", &bytes);
        let _ = Sell::read_row(&bytes);
        let _ = Holding::read_row(&bytes);
    }
}
