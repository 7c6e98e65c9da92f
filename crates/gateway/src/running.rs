//! Starts and stops a gateway: its threads, its tasks, and its listener.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use os::clock::wall_ms;
use ports::records::Records;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use tokio::sync::{Semaphore, mpsc, watch};
use wire::topics::{
    NOTIFICATIONS, ORDER_COMMANDS, ORDER_EVENTS, PORTFOLIOS, REFERENCE_PRICES, SUBSCRIPTIONS,
};

use crate::access::AccessControl;
use crate::admission::RequestLimits;
use crate::context::GatewayContext;
use crate::feed::Feed;
use crate::marks::MarkTable;
use crate::metrics::Metrics;
use crate::orders::OrderIndex;
use crate::per_user_lock::PerUserLocks;
use crate::portfolios::PortfolioIndex;
use crate::settings::GatewaySettings;
use crate::subscriptions::Subscriptions;
use crate::writer::{Writer, Writers};
use crate::{alerts, follow, server, webhooks};

/// A gateway that listens.
pub struct RunningGateway {
    pub address: SocketAddr,
    /// State that all parts share, for tests.
    pub gateway: Arc<GatewayContext>,
    stop: watch::Sender<bool>,
    flag: Arc<AtomicBool>,
    failed: mpsc::UnboundedReceiver<LogError>,
    threads: Vec<std::thread::JoinHandle<()>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// Starts a gateway on a log, inside a tokio runtime. The gateway listens when this function
/// returns. The gateway serves streams as soon as the history has been read.
pub async fn start(
    log: Arc<dyn Log>,
    topics: Arc<TopicTable>,
    access: AccessControl,
    settings: GatewaySettings,
) -> Result<RunningGateway, LogError> {
    if !settings.listen.ip().is_loopback() && !access.needs_token() {
        return Err(LogError::Invalid(format!(
            "listening on {} lets other machines in, and without tokens everybody could read everything: give --token-file, or listen on 127.0.0.1",
            settings.listen
        )));
    }

    let listener = server::bind(&settings)?;
    let address = listener
        .local_addr()
        .map_err(|e| LogError::Io(e.to_string()))?;
    let setup = LogSetup::read(&log, &settings).await?;
    let (stop, stopping) = watch::channel(false);
    let (writers, threads) = Writers::start(
        &log,
        settings.positions_every,
        setup.command_partitions.is_some(),
    )?;
    let gateway = Arc::new(setup.context(log, topics, access, settings, stopping));

    let (send, failed) = mpsc::unbounded_channel();
    let mut running = RunningGateway {
        address,
        gateway: gateway.clone(),
        stop,
        flag: Arc::default(),
        failed,
        threads,
        tasks: Vec::new(),
    };

    running.follow_topics(setup, &send)?;
    if gateway.settings.webhooks {
        running.webhooks(&writers.changes, &send)?;
    }

    running.tasks.push(tokio::spawn(server::serve(
        gateway.clone(),
        writers,
        listener,
    )));
    running
        .tasks
        .push(tokio::spawn(server::watch_tokens(gateway)));
    Ok(running)
}

/// State of the log before the gateway starts: its id, and the first offset to read of each
/// partition of a topic.
struct LogSetup {
    cluster: String,
    notifications: Vec<u64>,
    subscriptions: Vec<u64>,
    portfolios: Vec<u64>,
    prices: Vec<u64>,
    /// Empty if the log refuses the topic.
    order_events: Vec<u64>,
    /// `None` if this gateway takes no orders.
    command_partitions: Option<u32>,
    /// Start of the history, in milliseconds since 1970; `None`: the beginning of the log.
    since_ms: Option<i64>,
}

impl LogSetup {
    async fn read(log: &Arc<dyn Log>, settings: &GatewaySettings) -> Result<LogSetup, LogError> {
        let log = log.clone();
        let read_only = settings.read_only;
        let since_ms = settings
            .history
            .map(|h| wall_ms().saturating_sub(i64::try_from(h.as_millis()).unwrap_or(i64::MAX)));

        // Calls to the log block.
        let read = move || {
            let order_events =
                unless_refused("order-events", starts(&*log, ORDER_EVENTS, since_ms))?;
            let command_partitions = match &order_events {
                Some(_) if !read_only => {
                    unless_refused("order-commands", client::partitions(&*log, ORDER_COMMANDS))?
                }
                _ => None,
            };

            Ok(LogSetup {
                cluster: log.cluster_id()?,
                notifications: starts(&*log, NOTIFICATIONS, since_ms)?,
                subscriptions: starts(&*log, SUBSCRIPTIONS, None)?,
                portfolios: starts(&*log, PORTFOLIOS, None)?,
                prices: starts(&*log, REFERENCE_PRICES, None)?,
                order_events: order_events.unwrap_or_default(),
                command_partitions,
                since_ms,
            })
        };

        tokio::task::spawn_blocking(read)
            .await
            .map_err(|e| LogError::Unavailable(format!("starting the gateway: {e}")))?
    }

    /// The state that all parts share.
    fn context(
        &self,
        log: Arc<dyn Log>,
        topics: Arc<TopicTable>,
        access: AccessControl,
        settings: GatewaySettings,
        stop: watch::Receiver<bool>,
    ) -> GatewayContext {
        let feed = Feed::new(
            log.clone(),
            NOTIFICATIONS,
            &self.notifications,
            settings.memory,
            settings.ahead,
        );

        GatewayContext {
            cluster: self.cluster.clone(),
            feed,
            subscriptions: Subscriptions::default(),
            portfolios: PortfolioIndex::default(),
            turns: PerUserLocks::default(),
            orders: OrderIndex::new(&self.order_events, settings.orders_memory, self.since_ms),
            command_partitions: self.command_partitions,
            placing: Arc::new(Semaphore::new(settings.commands)),
            commands_in_turn: PerUserLocks::default(),
            limits: RequestLimits::new(&settings),
            marks: MarkTable::default(),
            metrics: Metrics::default(),
            settings,
            log,
            topics,
            access,
            stop,
        }
    }
}

/// The result of asking for a topic that only orders need. `None` if the log refuses the topic:
/// then the gateway serves everything else.
fn unless_refused<T>(topic: &str, asked: Result<T, LogError>) -> Result<Option<T>, LogError> {
    match asked {
        Ok(found) => Ok(Some(found)),
        Err(e @ (LogError::Refused(_) | LogError::Invalid(_))) => {
            tracing::warn!(
                "orders over HTTP are off: {topic} cannot be used: {e}; everything else is served. Give the gateway the right to the topic and start it again, or start it with --read-only"
            );
            Ok(None)
        }
        Err(e) => Err(e),
    }
}

/// First offsets of a topic's partitions: those of the time `since_ms`, or the beginning of the
/// topic.
fn starts(log: &dyn Log, topic: TopicId, since_ms: Option<i64>) -> Result<Vec<u64>, LogError> {
    let start = |partition| {
        let at = TopicPartition::new(topic, partition);
        let first = log.bounds(at)?.start;
        Ok(since_ms
            .map_or(Ok(first), |ms| log.offset_at(at, ms))?
            .max(first))
    };

    (0..client::partitions(log, topic)?).map(start).collect()
}

impl RunningGateway {
    fn thread(
        &mut self,
        name: &str,
        failed: &mpsc::UnboundedSender<LogError>,
        work: impl FnOnce(&GatewayContext, &AtomicBool) -> Result<(), LogError> + Send + 'static,
    ) -> Result<(), LogError> {
        let gateway = self.gateway.clone();
        let flag = self.flag.clone();
        let failed = failed.clone();
        let thread = std::thread::Builder::new()
            .name(name.into())
            .spawn(move || {
                if let Err(e) = work(&gateway, &flag) {
                    // The receiver is gone only while the gateway stops.
                    failed.send(e).unwrap_or_default();
                }
            });

        self.threads.push(
            thread.map_err(|e| LogError::Unavailable(format!("no thread can be started: {e}")))?,
        );
        Ok(())
    }

    fn follow(
        &mut self,
        name: &str,
        topic: TopicId,
        starts: Vec<u64>,
        failed: &mpsc::UnboundedSender<LogError>,
        mut take: impl FnMut(&GatewayContext, &Records, bool) + Send + 'static,
    ) -> Result<(), LogError> {
        self.thread(name, failed, move |g, stop| {
            follow::run(&g.log, topic, &starts, stop, |records, all| {
                take(g, records, all)
            })
        })
    }

    /// Starts the threads that read notifications, subscriptions and portfolios.
    fn follow_topics(
        &mut self,
        setup: LogSetup,
        failed: &mpsc::UnboundedSender<LogError>,
    ) -> Result<(), LogError> {
        let feed = |g: &GatewayContext, records: &Records, all| {
            g.feed.take(records.iter());
            if all {
                g.feed.set_ready();
            }
        };

        let subscriptions = |g: &GatewayContext, records: &Records, _| {
            if !records.is_empty() {
                g.subscriptions.take(records.iter());
            }
        };

        let portfolios =
            |g: &GatewayContext, records: &Records, _| g.portfolios.take(records.iter());

        self.follow(
            "gateway-feed",
            NOTIFICATIONS,
            setup.notifications,
            failed,
            feed,
        )?;
        self.follow(
            "gateway-subs",
            SUBSCRIPTIONS,
            setup.subscriptions,
            failed,
            subscriptions,
        )?;
        self.follow(
            "gateway-folios",
            PORTFOLIOS,
            setup.portfolios,
            failed,
            portfolios,
        )?;
        self.follow(
            "gateway-marks",
            REFERENCE_PRICES,
            setup.prices,
            failed,
            |g, records, _| g.marks.take(records.iter()),
        )?;

        if setup.order_events.is_empty() {
            return Ok(());
        }

        self.follow_orders(setup.order_events, failed)
    }

    /// Starts the thread that reads events of orders. A refused topic ends only this thread.
    fn follow_orders(
        &mut self,
        starts: Vec<u64>,
        failed: &mpsc::UnboundedSender<LogError>,
    ) -> Result<(), LogError> {
        self.thread("gateway-orders", failed, move |g, stop| {
            let followed = follow::run(&g.log, ORDER_EVENTS, &starts, stop, |records, all| {
                g.orders.take(records.iter());
                if all {
                    g.orders.set_ready();
                }
            });

            if unless_refused("order-events", followed)?.is_none() {
                g.orders.turn_off();
            }

            Ok(())
        })
    }

    fn webhooks(
        &mut self,
        writer: &Writer,
        failed: &mpsc::UnboundedSender<LogError>,
    ) -> Result<(), LogError> {
        let (send, owned) = watch::channel(webhooks::Owned::default());
        let group = format!("{}processor-gateway", self.gateway.topics.prefix());
        let instance = format!("{group}-{}", self.gateway.settings.instance);
        self.thread("gateway-owner", failed, move |g, stop| {
            webhooks::own(&g.log, g.feed.topic, &group, &instance, stop, &send)
        })?;

        let their_writer = writer.clone();
        let their_owned = owned.clone();
        self.thread("gateway-alerts", failed, move |g, stop| {
            alerts::run(g, &their_writer, their_owned, stop)
        })?;

        let gateway = self.gateway.clone();
        let writer = writer.clone();
        let failed = failed.clone();
        self.tasks.push(tokio::spawn(async move {
            if let Err(e) = webhooks::serve(gateway, writer, owned).await {
                failed.send(LogError::Invalid(e)).unwrap_or_default();
            }
        }));

        Ok(())
    }

    /// Resolves with the error after which the gateway cannot continue.
    pub async fn failed(&mut self) -> LogError {
        match self.failed.recv().await {
            Some(e) => e,
            None => std::future::pending().await,
        }
    }

    /// Tells all streams the position to resume from, ends them, and writes the positions of
    /// webhooks.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        self.flag.store(true, Ordering::Release);
        for task in self.tasks.drain(..) {
            // A panic was printed at the place where it happened.
            drop(task.await);
        }

        let threads = std::mem::take(&mut self.threads);
        drop(
            tokio::task::spawn_blocking(move || threads.into_iter().for_each(|t| drop(t.join())))
                .await,
        );
    }
}
