//! Server-Sent Events: a stream as a response body, written as fast as the client reads and no
//! faster.

use std::convert::Infallible;
use std::fmt::Write;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use hyper::body::{Body, Frame};

use crate::stream::{Outgoing, StreamMessage};

/// Maximum number of messages in one write.
const TOGETHER: usize = 16;

/// The body of an event stream.
pub(crate) struct SseBody {
    user: String,
    outgoing: Outgoing,
    batch: Vec<StreamMessage>,
    ended: bool,
}

impl SseBody {
    pub(crate) fn new(user: &str, outgoing: Outgoing) -> Self {
        SseBody {
            user: user.to_string(),
            outgoing,
            batch: Vec::with_capacity(TOGETHER),
            ended: false,
        }
    }
}

impl Body for SseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = &mut *self;
        if this.ended {
            return Poll::Ready(None);
        }

        let mut text = String::new();
        match this
            .outgoing
            .queue
            .poll_recv_many(cx, &mut this.batch, TOGETHER)
        {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(0) => {
                this.ended = true;
                match this.outgoing.last.get() {
                    Some(last) => encode(last, &this.user, &mut text),
                    None => return Poll::Ready(None),
                }
            }
            Poll::Ready(_) => {
                for message in this.batch.drain(..) {
                    encode(&message, &this.user, &mut text);
                }
            }
        }

        Poll::Ready(Some(Ok(Frame::data(text.into()))))
    }
}

/// Writes one event. JSON has no raw line ends, so `data` is one line.
fn encode(message: &StreamMessage, user: &str, out: &mut String) {
    let written = match (message, message.parts(user)) {
        // An id without data updates a browser's `Last-Event-ID` but shows no event.
        (StreamMessage::Heartbeat(Some(position)), _) => {
            write!(out, ": heartbeat\nid: {position}\n\n")
        }
        (_, None) => write!(out, ": heartbeat\n\n"),
        (StreamMessage::Hello(_), Some((name, Some(id), data))) => write!(
            out,
            "retry: 1000\nid: {id}\nevent: {name}\ndata: {data}\n\n"
        ),
        (_, Some((name, None, data))) => write!(out, "event: {name}\ndata: {data}\n\n"),
        (_, Some((name, Some(id), data))) => {
            write!(out, "id: {id}\nevent: {name}\ndata: {data}\n\n")
        }
    };

    written.expect("writing to a string");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed_item::FeedItem;
    use crate::stream::End;

    #[test]
    fn events_as_they_are_written() {
        let value = rmp_serde::to_vec_named(&serde_json::json!({"user_seq": 7, "text": "a\nb"}))
            .expect("encodes");
        let item = FeedItem {
            seq: 7,
            offset: 0,
            time_ms: 0,
            value: value.into(),
        };

        let text = |m| {
            let mut out = String::new();
            encode(&m, "501", &mut out);
            out
        };

        assert_eq!(
            text(StreamMessage::Notification(item)),
            "id: 7\nevent: notification\ndata: {\"user_seq\":7,\"text\":\"a\\nb\"}\n\n"
        );
        assert_eq!(text(StreamMessage::Heartbeat(None)), ": heartbeat\n\n");
        assert_eq!(
            text(StreamMessage::Heartbeat(Some(9))),
            ": heartbeat\nid: 9\n\n"
        );
        assert_eq!(
            text(StreamMessage::Hello(3)),
            "retry: 1000\nid: 3\nevent: hello\ndata: {\"user_id\":\"501\",\"resume_from\":3}\n\n"
        );
        let gone = text(StreamMessage::Resync {
            after: 3,
            first: 10,
        });

        assert!(
            gone.starts_with("id: 9\nevent: resync_required\n")
                && gone.contains("\"first_user_seq\":10"),
            "{gone}"
        );
        let alert = StreamMessage::Alert(serde_json::json!({"id": "a"}));
        assert_eq!(
            text(alert),
            "event: price_alert\ndata: {\"id\":\"a\"}\n\n",
            "no id: the position stays"
        );
        assert!(
            text(StreamMessage::End(End::Slow, 4)).starts_with("id: 4\nevent: slow_consumer\n")
        );
    }
}
