//! The bound on connections: each connection holds a slot while it is open.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::OwnedSemaphorePermit;

use crate::context::GatewayContext;

/// One of the allowed connections. A connection that becomes a WebSocket keeps its slot.
pub(crate) struct ConnectionSlot {
    gateway: Arc<GatewayContext>,
    permit: Option<OwnedSemaphorePermit>,
    streams: Arc<AtomicBool>,
}

impl ConnectionSlot {
    pub(crate) fn take(
        gateway: &Arc<GatewayContext>,
        permit: OwnedSemaphorePermit,
    ) -> Arc<ConnectionSlot> {
        gateway.metrics.connections.fetch_add(1, Ordering::Relaxed);
        Arc::new(ConnectionSlot {
            gateway: gateway.clone(),
            permit: Some(permit),
            streams: Arc::default(),
        })
    }

    /// True once the connection is a stream.
    pub(crate) fn stream_flag(&self) -> Arc<AtomicBool> {
        self.streams.clone()
    }

    /// Marks the connection as a stream. A stream detects a slow reader itself, so the write
    /// timeout does not apply.
    pub(crate) fn mark_as_stream(&self) {
        self.streams.store(true, Ordering::Relaxed);
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        // Free the slot before the metric counts the connection as closed.
        drop(self.permit.take());
        self.gateway
            .metrics
            .connections
            .fetch_sub(1, Ordering::Relaxed);
    }
}
