//! Commands of the clients. A hundred users send market orders, which the house fills. A few other
//! users send limit orders, cancels and mass cancels, which meet in separate books. One user at a
//! time floods one partition. Each kind has its own check.

use client::simulate::Rng;
use ports::partitioner;

/// One command, for the first send and for repeats.
#[derive(Clone, Debug)]
pub struct Command {
    pub user: String,
    /// Fields in JSON, each followed by a comma, without the `timestamp`.
    pub fields: String,
}

impl Command {
    fn new(user: &str, id: &str, fields: &str) -> Command {
        Command {
            user: user.into(),
            fields: format!(r#""order_id":"{id}","user_id":"{user}",{fields}"#),
        }
    }

    /// A market order.
    pub fn buy(id: &str, user: &str, symbol: &str, quantity: u64) -> Command {
        Command::new(
            user,
            id,
            &format!(r#""symbol":"{symbol}","quantity":{quantity},"order_type":"buy","#),
        )
    }

    pub fn mass_cancel(id: &str, user: &str, symbol: Option<&str>) -> Command {
        let symbol = symbol.map_or(String::new(), |s| format!(r#""symbol":"{s}","#));
        Command::new(user, id, &format!(r#""command":"mass_cancel",{symbol}"#))
    }
}

/// Produces the next command of a client.
pub trait Source: Send {
    fn next(&mut self, rng: &mut Rng) -> Command;
}

/// Market orders: mostly new; now and then a repeat, a reused id, or an unknown symbol.
pub struct MarketOrders {
    pub client: u64,
    pub users: u64,
    pub symbols: u64,
    pub sent: Vec<(String, String, u64, u64)>,
}

impl Source for MarketOrders {
    fn next(&mut self, rng: &mut Rng) -> Command {
        let kind = rng.below(100);
        let (id, user, symbol, quantity) = if kind < 5 && !self.sent.is_empty() {
            let mut order = self.sent[rng.below(self.sent.len() as u64) as usize].clone();
            order.3 += u64::from(kind == 4);
            order
        } else {
            let symbol = if kind == 99 {
                1_000_000
            } else {
                rng.below(self.symbols)
            };

            let user = format!("u{}", rng.below(self.users));
            let order = (
                format!("c{}-{}", self.client, self.sent.len()),
                user,
                symbol,
                1 + rng.below(5),
            );
            self.sent.push(order.clone());
            order
        };

        Command::buy(&id, &user, &format!("S{symbol}"), quantity)
    }
}

/// Users and symbols of the books; no other user trades these symbols.
pub const BOOK_USERS: u64 = 12;
pub const BOOKS: u64 = 4;
/// The fixed price of these symbols: in 10^-4 units, and as the text of a tick.
pub const BOOK_PRICE_E4: i64 = 1_000_000;
/// Half spread of the house in the books. Users can meet one another between the house's prices.
pub const HALF_SPREAD_BPS: i64 = 200;
pub const BOOK_PRICE: &str = "100.00";

pub fn is_book_user(user: &str) -> bool {
    user.starts_with('b')
}

pub fn is_book(symbol: &str) -> bool {
    symbol.starts_with('B')
}

/// Limit orders of every kind around the price, cancels, and now and then a mass cancel. First each
/// user buys shares from the house and withdraws most of the cash. The remaining cash is sometimes
/// too little.
pub struct Books {
    cash: i64,
    next: u64,
    /// The newest orders of each user.
    open: Vec<Vec<String>>,
}

impl Books {
    /// `cash`: opening cash of the accounts.
    pub fn new(cash: i64) -> Books {
        Books {
            cash,
            next: 0,
            open: vec![Vec::new(); BOOK_USERS as usize],
        }
    }
}

/// Number of newest orders that a cancel picks from.
const PICKED: usize = 12;

impl Source for Books {
    fn next(&mut self, rng: &mut Rng) -> Command {
        let n = self.next;
        self.next += 1;
        let first = n / BOOK_USERS;
        let rest = n % BOOK_USERS;
        if first == 0 {
            let amount = self.cash - 60_000;
            return Command::new(
                &format!("b{rest}"),
                "out",
                &format!(r#""command":"withdraw","amount":{amount},"#),
            );
        }

        if first <= BOOKS {
            let symbol = format!("B{}", first - 1);
            return Command::buy(&format!("in-{symbol}"), &format!("b{rest}"), &symbol, 60);
        }

        let u = rng.below(BOOK_USERS) as usize;
        let user = format!("b{u}");
        let id = format!("o{n}");
        let symbol = format!("B{}", rng.below(BOOKS));
        match rng.below(100) {
            0..3 => {
                return Command::mass_cancel(&id, &user, (rng.below(2) == 0).then_some(&symbol));
            }
            3..22 if !self.open[u].is_empty() => {
                // Mostly a new order of the same user; sometimes an unknown order.
                let orig = &self.open[u][rng.below(self.open[u].len() as u64) as usize];
                let orig = if rng.below(20) == 0 { "nobodys" } else { orig };
                return Command::new(
                    &user,
                    &id,
                    &format!(r#""command":"cancel","orig_order_id":"{orig}","#),
                );
            }
            _ => {}
        }

        if self.open[u].len() == PICKED {
            self.open[u].remove(0);
        }

        self.open[u].push(id.clone());
        let side = ["buy", "sell"][rng.below(2) as usize];
        let quantity = 1 + rng.below(20);

        // 97.50 to 102.50, and about half of them cross; a few far above, beyond the collar for
        // buys.
        let price = if rng.below(50) == 0 {
            12_000
        } else {
            9_750 + 25 * rng.below(21)
        };

        let (life, post_only) = match rng.below(10) {
            0 | 1 => ("IOC", false),
            2 => ("FOK", false),
            3 => ("GTC", true),
            _ => ("GTC", false),
        };

        let fields = format!(
            r#""symbol":"{symbol}","quantity":{quantity},"order_type":"{side}","type":"limit","limit_price":"{}.{:02}","tif":"{life}","post_only":{post_only},"#,
            price / 100,
            price % 100
        );
        Command::new(&user, &id, &fields)
    }
}

/// The last commands of the clients, which end all open orders in the books.
pub fn last_words() -> Vec<Command> {
    (0..BOOK_USERS)
        .map(|u| Command::mass_cancel("the-end", &format!("b{u}"), None))
        .collect()
}

/// Bursts of one user into one partition, with symbols of the same partition. Every fifth command
/// is an order; the others repeat it.
pub struct Flood {
    partitions: u32,
    symbols: u64,
    size: u64,
    next: u64,
    user: String,
    symbol: String,
}

impl Flood {
    /// Bursts of `size` commands.
    pub fn new(partitions: u32, symbols: u64, size: u64) -> Flood {
        Flood {
            partitions,
            symbols,
            size,
            next: 0,
            user: String::new(),
            symbol: String::new(),
        }
    }

    /// The partition of a burst.
    pub fn partition(burst: u64, partitions: u32) -> u32 {
        partitioner::partition(format!("f{burst}").as_bytes(), partitions)
    }
}

impl Source for Flood {
    fn next(&mut self, _: &mut Rng) -> Command {
        let burst = self.next / self.size;
        let n = self.next % self.size;
        self.next += 1;
        if n == 0 {
            let partition = Flood::partition(burst, self.partitions);
            let here =
                |s: &String| partitioner::partition(s.as_bytes(), self.partitions) == partition;
            self.symbol = (0..self.symbols)
                .map(|s| format!("S{s}"))
                .find(here)
                .expect("a symbol in every partition");
            self.user = format!("f{burst}");
        }

        Command::buy(&format!("f{}", n / 5), &self.user, &self.symbol, 1)
    }
}

/// A list of commands, sent once.
pub struct Listed(pub Vec<Command>);

impl Source for Listed {
    fn next(&mut self, _: &mut Rng) -> Command {
        self.0.pop().expect("as many as were asked for")
    }
}
