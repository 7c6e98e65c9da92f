//! Orders over HTTP: the commands that go into the log, and the events that answer them.
//!
//! ```text
//!  POST --> CommandDraft --(writer)--> order-commands --> role `orders`
//!                |                                            |
//!             waiter <--(follow)-- OrderIndex <-- order-events
//! ```
//!
//! Each gateway follows all events and folds them into the [`OrderIndex`], which answers queries and
//! completes waiters. `docs/internals/decisions/0046-orders-over-http.md` has the reasons.

mod answer;
mod command_draft;
mod index;
mod kept_order;
mod order_lists;
mod place;

pub(crate) use answer::{CommandAnswer, CommandRefused, Stage};
pub(crate) use command_draft::{CommandDraft, DraftError};
pub(crate) use index::OrderIndex;
pub(crate) use order_lists::{OrderFilter, Page};
pub(crate) use place::{Placed, place};
