//! The gateway: users' notifications over HTTP, as Server-Sent Events, WebSockets and webhooks.
//!
//! The gateway is not a role. The gateway decides nothing about orders or money, and holds no state
//! outside the log. So any number of gateways can run, and a dead gateway loses nothing. A client
//! resumes at another gateway with the number of the last notification that the client has seen.
//!
//! ```text
//!  notifications --(follow)--> Feed: newest in memory, index to the rest
//!                               |
//!                               +--(FeedCursor)--> stream   --> SSE, WebSocket
//!                               +--(FeedCursor)--> webhooks --> endpoints
//!
//!  subscriptions <--(writer)-- preferences, endpoints, their positions, alerts
//!                --(follow)--> Subscriptions
//! ```
#![warn(unreachable_pub)]

pub mod access;
mod alerts;
pub mod feed;
mod follow;
mod history;
pub mod json;
mod manage;
mod metrics;
mod per_user_lock;
mod percent;
mod portfolios;
mod retry_policy;
mod router;
mod server;
mod sse;
mod stream;
pub mod subscriptions;
pub mod webhooks;
mod write_timeout;
mod writer;
mod ws;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::now_ms;
use ports::topics::{TopicId, TopicPartition, TopicTable};
use ports::{Log, LogError};
use tokio::sync::{mpsc, watch};
use wire::topics::{NOTIFICATIONS, PORTFOLIOS, SUBSCRIPTIONS};

use access::AccessControl;
use feed::Feed;
pub use metrics::Metrics;
use per_user_lock::PerUserLocks;
use portfolios::PortfolioIndex;
use subscriptions::Subscriptions;
use writer::Writer;

/// Settings and all bounds of a gateway.
#[derive(Clone, Debug)]
pub struct GatewaySettings {
    /// Address to listen on.
    pub listen: SocketAddr,
    /// Age up to which clients can ask for notifications. `None`: back to the beginning of the log.
    pub history: Option<Duration>,
    /// Bytes of notifications kept in memory.
    pub memory: usize,
    /// Maximum number of connections at once.
    pub connections: usize,
    /// Maximum number of streams of one user at once.
    pub streams_per_user: usize,
    /// Maximum number of messages that wait for one connection.
    pub queue: usize,
    /// Longest time that the queue of a stream may stay full, or that a response may stay unread.
    pub stall: Duration,
    /// Time for a client to read the last message of its stream. At a stop: time for all
    /// connections to end.
    pub grace: Duration,
    /// Interval of the heartbeats on a stream. The stream checks its token again at the same
    /// interval.
    pub heartbeat: Duration,
    /// Longest time that a client's position may be ahead of the notifications read by this
    /// gateway.
    pub ahead: Duration,
    /// Size of a connection's kernel send buffer, in bytes.
    pub send_buffer: u32,
    /// Serve webhooks and price alerts.
    pub webhooks: bool,
    /// Allow webhooks to `http` URLs and to addresses that are not public.
    pub private_webhooks: bool,
    /// Longest time for one webhook request.
    pub webhook_timeout: Duration,
    /// Pauses before the retries of a webhook, one for each failure in a row. The last pause
    /// repeats.
    pub schedule: Vec<Duration>,
    /// Longest time that a notification is retried at a webhook that does not work.
    pub give_up: Duration,
    /// Interval at which positions of webhooks are written to the log.
    pub positions_every: Duration,
    /// Number of this gateway among the gateways that share the webhooks.
    pub instance: u32,
}

impl Default for GatewaySettings {
    fn default() -> Self {
        GatewaySettings {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            history: Some(Duration::from_secs(7 * 86_400)),
            memory: 256 << 20,
            connections: 10_000,
            streams_per_user: 64,
            queue: 64,
            stall: Duration::from_secs(10),
            grace: Duration::from_secs(5),
            heartbeat: Duration::from_secs(15),
            ahead: Duration::from_secs(2),
            send_buffer: 64 << 10,
            webhooks: true,
            private_webhooks: false,
            webhook_timeout: Duration::from_secs(15),
            schedule: webhooks::SCHEDULE.to_vec(),
            give_up: webhooks::GIVE_UP,
            positions_every: Duration::from_millis(200),
            instance: 1,
        }
    }
}

/// State that all parts of a gateway share.
pub struct GatewayContext {
    pub(crate) settings: GatewaySettings,
    pub(crate) log: Arc<dyn Log>,
    pub(crate) topics: Arc<TopicTable>,
    pub(crate) cluster: String,
    pub(crate) access: AccessControl,
    /// All notifications, in memory and in the log.
    pub feed: Arc<Feed>,
    pub(crate) subscriptions: Subscriptions,
    pub(crate) portfolios: PortfolioIndex,
    pub(crate) turns: PerUserLocks,
    pub metrics: Metrics,
    pub(crate) stop: watch::Receiver<bool>,
}

impl GatewayContext {
    /// Resolves when the gateway is asked to stop.
    pub(crate) async fn stopping(&self) {
        // The sender lives as long as the gateway runs. A dropped sender also means stop.
        self.stop
            .clone()
            .wait_for(|s| *s)
            .await
            .map(drop)
            .unwrap_or_default();
    }

    /// Preferences, endpoints and alerts of users, and the delivery positions of the endpoints.
    pub fn subscriptions(&self) -> &Subscriptions {
        &self.subscriptions
    }

    pub(crate) fn topic_name(&self) -> &str {
        self.topics.name(self.feed.topic)
    }
}

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
    let setup_log = log.clone();
    let history = settings.history;

    // Calls to the log block.
    let setup = tokio::task::spawn_blocking(move || {
        let starts = [NOTIFICATIONS, SUBSCRIPTIONS, PORTFOLIOS]
            .map(|t| starts(&*setup_log, t, history.filter(|_| t == NOTIFICATIONS)));
        let [notifications, subscriptions, portfolios] = starts;
        Ok::<_, LogError>((
            setup_log.cluster_id()?,
            notifications?,
            subscriptions?,
            portfolios?,
        ))
    });

    let (cluster, starts, subscription_starts, portfolio_starts) = setup
        .await
        .map_err(|e| LogError::Unavailable(format!("starting the gateway: {e}")))??;
    let feed = Feed::new(
        log.clone(),
        NOTIFICATIONS,
        &starts,
        settings.memory,
        settings.ahead,
    );

    let (stop, stopping) = watch::channel(false);
    let (writer, writer_thread) = Writer::start(log.clone(), settings.positions_every)?;
    let gateway = Arc::new(GatewayContext {
        settings,
        log,
        topics,
        cluster,
        access,
        feed,
        subscriptions: Subscriptions::default(),
        portfolios: PortfolioIndex::default(),
        turns: PerUserLocks::default(),
        metrics: Metrics::default(),
        stop: stopping,
    });

    let (send, failed) = mpsc::unbounded_channel();
    let mut running = RunningGateway {
        address,
        gateway: gateway.clone(),
        stop,
        flag: Arc::default(),
        failed,
        threads: vec![writer_thread],
        tasks: Vec::new(),
    };

    running.follow(
        "gateway-feed",
        NOTIFICATIONS,
        starts,
        &send,
        |g, records, all| {
            g.feed.take(records.iter());
            if all {
                g.feed.set_ready();
            }
        },
    )?;

    running.follow(
        "gateway-subs",
        SUBSCRIPTIONS,
        subscription_starts,
        &send,
        |g, records, _| {
            if !records.is_empty() {
                g.subscriptions.take(records.iter());
            }
        },
    )?;

    running.follow(
        "gateway-folios",
        PORTFOLIOS,
        portfolio_starts,
        &send,
        |g, records, _| g.portfolios.take(records.iter()),
    )?;

    if gateway.settings.webhooks {
        running.webhooks(&writer, &send)?;
    }

    running.tasks.push(tokio::spawn(server::serve(
        gateway.clone(),
        writer,
        listener,
    )));
    running
        .tasks
        .push(tokio::spawn(server::watch_tokens(gateway)));
    Ok(running)
}

/// First offsets of a topic's partitions: `history` back from now, or the beginning of the topic.
fn starts(log: &dyn Log, topic: TopicId, history: Option<Duration>) -> Result<Vec<u64>, LogError> {
    let since =
        history.map(|h| now_ms().saturating_sub(i64::try_from(h.as_millis()).unwrap_or(i64::MAX)));
    let start = |partition| {
        let at = TopicPartition::new(topic, partition);
        let first = log.bounds(at)?.start;
        Ok(since
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
        mut take: impl FnMut(&GatewayContext, &ports::records::Records, bool) + Send + 'static,
    ) -> Result<(), LogError> {
        self.thread(name, failed, move |g, stop| {
            follow::run(&g.log, topic, &starts, stop, |records, all| {
                take(g, records, all)
            })
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
