//! The real roles `orders` and `trading` over a log in memory, run to rest after each command.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use engine::broadcast::{TableView, Tables};
use engine::context::{Cause, Ctx, Outbox};
use engine::overlay::Overlay;
use engine::role::{RoleFactory, RoleLogic as Logic};
use engine::sequence_check::OutSequences;
use ports::StateStore;
use ports::records::{Headers, Record, Records};
use ports::topics::{TopicId, TopicPartition};
use roles::reconciliation::Reconciliation;
use roles::{Role, RoleSettings, factory};
use store::memory::MemoryStore;
use wire::event::OrderEvent;
use wire::trade::{TRADE_BUSTED, TradeBusted};
use wire::{command, topics};

use super::Told;
use super::script::{Command, Off, START_MS, SYMBOLS, Status, json};

struct Task {
    role: Role,
    factory: Box<dyn RoleFactory>,
    logic: Box<dyn Logic>,
    overlay: Overlay,
    store: MemoryStore,
    view: TableView,
    outbox: Outbox,
}

struct Waiting {
    topic: TopicId,
    key: Option<Vec<u8>>,
    value: Vec<u8>,
    time_ms: i64,
}

pub struct Pair {
    now: i64,
    tasks: Vec<Task>,
    tables: Tables,
    queue: VecDeque<Waiting>,
    offset: u64,
    short_ok: bool,
    pub told: BTreeMap<String, Vec<Told>>,
    /// Busts in the topic of trades.
    pub busts: Vec<(String, String, String, i64, i64)>,
}

pub fn settings() -> RoleSettings {
    RoleSettings {
        rate_limit: 0,
        opening_cash_e4: 350_000_000,
        mass_cancel_part: 2,
        match_part: 2,
        ..Default::default()
    }
}

/// As [`settings`], with limits that the scripts reach.
pub fn limited() -> RoleSettings {
    RoleSettings {
        rate_limit: 2,
        burst: 5,
        message_rate_factor: 2,
        ..settings()
    }
}

pub fn listing(symbol: &str, status: Status, house: bool, short_ok: bool) -> String {
    let status = match status {
        Status::Listed => "listed",
        Status::Halted => "halted",
        Status::Delisted => "delisted",
    };

    let more = match symbol {
        "A" => "",
        "B" => r#","fee_bps":13,"clip_size":100,"house_max":25,"short_margin_bps":2000"#,
        _ => r#","half_spread_bps":5,"fee_bps":3,"limit_band_bps":300,"short_margin_bps":0"#,
    };

    format!(
        r#"{{"symbol":"{symbol}","status":"{status}","house":{house},"short_ok":{short_ok}{more}}}"#
    )
}

impl Pair {
    /// `short_ok`: users may sell short.
    pub fn new(short_ok: bool) -> Pair {
        Pair::by(settings(), short_ok)
    }

    /// As [`Pair::new`], with other settings.
    pub fn by(settings: RoleSettings, short_ok: bool) -> Pair {
        let names = Arc::new(topics::table(""));
        let counts: Arc<[u32]> = names.iter().map(|_| 1).collect();
        let task = |role: Role| {
            let factory = factory(role, settings, names.clone(), 1);
            let outbox = Outbox::new(
                names.clone(),
                counts.clone(),
                OutSequences::new(&factory.spec().guarded_outputs),
            );
            Task {
                role,
                logic: factory.make(0),
                view: TableView::new(Arc::default(), true),
                factory,
                overlay: Overlay::new(1 << 20),
                store: MemoryStore::default(),
                outbox,
            }
        };

        let tasks = vec![task(Role::Orders), task(Role::Trading)];
        let mut pair = Pair {
            now: START_MS,
            tasks,
            tables: Tables::default(),
            queue: VecDeque::new(),
            offset: 0,
            short_ok,
            told: BTreeMap::new(),
            busts: Vec::new(),
        };

        SYMBOLS
            .iter()
            .for_each(|s| pair.list(s, Status::Listed, true));
        pair
    }

    fn list(&mut self, symbol: &str, status: Status, house: bool) {
        self.offset += 1;
        self.tables.set(
            topics::INSTRUMENTS,
            symbol.as_bytes(),
            self.offset,
            listing(symbol, status, house, self.short_ok).as_bytes(),
        );
    }

    fn control(&mut self, key: &str, off: Option<Off>) {
        self.offset += 1;
        let value = off.map(|off| match off {
            Off::Orders => r#"{"state":"stopped","text":"why"}"#,
            Off::Everything => r#"{"state":"disabled"}"#,
        });

        let at = TopicPartition::new(topics::CONTROLS, 0);
        let key = Some(key.as_bytes());
        let value = value.map(str::as_bytes);
        let record = Record {
            at,
            offset: self.offset,
            timestamp_ms: self.now,
            key,
            value,
            headers: Headers::default(),
        };

        assert!(
            self.tasks[0].factory.accepts_broadcast(&record),
            "{record:?}"
        );
        self.tables.apply(&record);
    }

    /// Runs one command and all its consequences.
    pub fn run(&mut self, c: &Command, restarts: bool) -> Result<(), String> {
        self.take(c, restarts);
        self.rest(&mut |_| 0)
    }

    /// Runs several commands at once, and all their consequences, in any order that the topics
    /// allow. `pick` chooses the topic to read next.
    pub fn run_at_once(
        &mut self,
        commands: &[Command],
        mut pick: impl FnMut(usize) -> usize,
    ) -> Result<(), String> {
        commands.iter().for_each(|c| self.take(c, true));
        self.rest(&mut pick)
    }

    fn take(&mut self, c: &Command, restarts: bool) {
        match c {
            Command::Order { user, id, kind } => {
                let json = json(user, id, kind);
                self.put(command::topic(json.as_bytes()), Some(user), &json);
            }
            Command::Astray { user, id, kind } => {
                let json = json(user, id, kind);
                let topic = match command::topic(json.as_bytes()) {
                    topics::ORDER_COMMANDS => topics::OPERATOR_COMMANDS,
                    _ => topics::ORDER_COMMANDS,
                };

                self.put(topic, Some(user), &json);
            }
            Command::Tick { symbol, price } => {
                let tick = format!(
                    r#"{{"symbol":"{symbol}","price":"{}.{:04}"}}"#,
                    price / 10_000,
                    price % 10_000
                );
                self.put(topics::MARKET_DATA, Some(symbol), &tick);
            }
            Command::Wait(ms) => {
                self.now += ms;
                self.put(topics::CLOCK, None, "\u{0}");
            }
            Command::List {
                symbol,
                status,
                house,
            } => {
                self.list(symbol, *status, *house);
                self.put(topics::CLOCK, None, "\u{0}");
            }
            Command::Control { user, off } => {
                self.control(user.as_deref().unwrap_or("*"), *off);
                self.put(topics::CLOCK, None, "\u{0}");
            }
            Command::Restart if restarts => {
                for t in &mut self.tasks {
                    t.logic = t.factory.make(0);
                    t.overlay = Overlay::new(1 << 20);
                    t.view = TableView::new(Arc::default(), true);
                }
            }
            Command::Restart => {}
        }
    }

    fn put(&mut self, topic: TopicId, key: Option<&str>, value: &str) {
        self.queue.push_back(Waiting {
            topic,
            key: key.map(|k| k.as_bytes().to_vec()),
            value: value.as_bytes().to_vec(),
            time_ms: self.now,
        });
    }

    fn rest(&mut self, pick: &mut dyn FnMut(usize) -> usize) -> Result<(), String> {
        while !self.queue.is_empty() {
            let topic = self.queue[pick(self.queue.len())].topic;
            let next = self
                .queue
                .iter()
                .position(|w| w.topic == topic)
                .expect("the one that was picked, or one before it");
            let w = self.queue.remove(next).expect("just found");
            self.offset += 1;
            let at = TopicPartition::new(w.topic, 0);
            let record = Record {
                at,
                offset: self.offset,
                timestamp_ms: w.time_ms,
                key: w.key.as_deref(),
                value: Some(&w.value),
                headers: Headers::default(),
            };

            if w.topic == topics::REFERENCE_PRICES {
                self.tables.apply(&record);
                continue;
            }

            let Some(t) = self
                .tasks
                .iter_mut()
                .find(|t| t.factory.spec().inputs.iter().any(|i| i.topic == w.topic))
            else {
                continue;
            };

            t.view.tables = Arc::new(std::mem::take(&mut self.tables));
            let mut out = Records::new();
            let dead = t.factory.spec().dead_letters;
            let mut ctx = Ctx::new(
                0,
                &mut t.overlay,
                &t.store,
                &mut t.view,
                &mut t.outbox,
                &mut out,
                dead,
            );

            ctx.set_cause(Cause {
                at,
                offset: self.offset,
                timestamp_ms: w.time_ms,
            });

            let done = t
                .logic
                .process(&mut ctx, &record)
                .and_then(|()| t.logic.batch_end(&mut ctx));
            done.map_err(|e| format!("{}: {e}", t.role))?;
            t.store
                .write(&mut t.overlay.changes(), b"")
                .map_err(|e| e.to_string())?;
            t.overlay.committed();
            self.tables = Arc::try_unwrap(std::mem::take(&mut t.view.tables))
                .unwrap_or_else(|shared| (*shared).clone());
            for r in out.iter() {
                let value = r.value.unwrap_or_default();
                match r.at.topic {
                    topics::ORDER_EVENTS => hear(&mut self.told, value)?,
                    topics::TRADES if r.headers.text("type") == Some(TRADE_BUSTED) => {
                        let b = TradeBusted::decode(value)?;
                        let side = |who: Option<&str>| who.unwrap_or_default().to_string();
                        self.busts.push((
                            b.trade_id.into(),
                            side(b.buyer),
                            side(b.seller),
                            b.busted_quantity,
                            b.price_e4,
                        ));
                    }
                    topics::DEAD_LETTERS => {
                        let text = r.headers.text("reason").unwrap_or_default();
                        if text != "UNKNOWN_SYMBOL" {
                            return Err(format!("a dead letter: {text}"));
                        }
                    }
                    topic => self.queue.push_back(Waiting {
                        topic,
                        key: r.key.map(<[u8]>::to_vec),
                        value: value.to_vec(),
                        time_ms: if topic == topics::CLOCK {
                            self.now
                        } else {
                            r.timestamp_ms
                        },
                    }),
                }
            }
        }

        Ok(())
    }

    /// The whole state of both roles.
    pub fn state(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut all = Vec::new();
        for t in &self.tasks {
            let seen = t.store.scan(b"", &mut |k, v| {
                all.push((k.to_vec(), v.to_vec()));
                true
            });

            seen.expect("memory");
        }

        all
    }

    /// I1 to I3, computed from scratch.
    pub fn check(&self) -> Result<String, String> {
        roles::orders::check_books(&self.tasks[0].store)
    }

    /// All commands are done, and both roles have the same open orders.
    pub fn check_rest(&self) -> Result<(), String> {
        let mut all = Reconciliation::default();
        all.add_orders(&self.tasks[0].store)?;
        all.add_trading(&self.tasks[1].store)?;
        all.check().map(drop)
    }

    /// The books, in the order in which the orders would trade.
    pub fn books(&self) -> Vec<(String, bool, bool, i64, i64, String, String)> {
        let lines = roles::trading::read_books(&self.tasks[1].store).expect("readable books");
        lines
            .into_iter()
            .map(|l| {
                (
                    l.symbol,
                    l.side.name() == "buy",
                    l.waits,
                    l.limit_e4,
                    l.leaves,
                    l.user_id,
                    l.order_id,
                )
            })
            .collect()
    }
}

fn hear(told: &mut BTreeMap<String, Vec<Told>>, value: &[u8]) -> Result<(), String> {
    let e = OrderEvent::decode(value)?;
    let events = told.entry(e.user_id.to_string()).or_default();
    if e.user_seq != events.len() as u64 + 1 {
        return Err(format!(
            "user_seq {} of {} where {} was due",
            e.user_seq,
            e.user_id,
            events.len() + 1
        ));
    }

    let fill = e.trade_id.map(|_| {
        let number = |n: Option<i64>| n.expect("a fill's field");
        (
            number(e.last_quantity),
            number(e.last_price_e4),
            number(e.fee_e4),
            e.liquidity.map_or("", |l| l.name()),
        )
    });

    events.push(Told {
        event: e.event.name(),
        order_id: e.order_id.unwrap_or_default().into(),
        cause_id: e.cause_id.unwrap_or_default().into(),
        status: e.status.map_or("", |s| s.name()),
        quantity: e.quantity,
        cum: e.cum_quantity,
        leaves: e.leaves_quantity,
        reason: e.reason.map_or("", |r| r.name()),
        retry: e.retry_after_ms,
        unanswered: e.unanswered,
        last: fill,
        trade: e.trade_id.unwrap_or_default().into(),
        trigger: e
            .trigger_price_e4
            .map(|p| (p, e.limit_price_e4.expect("a limit"))),
        conflict: e.conflict_field.map_or("", |f| {
            const FIELDS: [&str; 16] = [
                "command",
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
                "trade_id",
                "price",
                "fee",
                "operator",
            ];

            FIELDS.iter().find(|known| **known == f).unwrap_or(&"?")
        }),
        available: e.cash_available_e4,
        reserved: e.cash_reserved_e4,
    });

    Ok(())
}
