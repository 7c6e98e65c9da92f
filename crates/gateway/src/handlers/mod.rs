//! The endpoints, one file for each resource. A handler gets a caller who may see the user, and an
//! allowed method; `router` has checked both.

pub(crate) mod alerts;
mod change;
pub(crate) mod notifications;
pub(crate) mod operations;
mod order_parameters;
pub(crate) mod orders;
pub(crate) mod portfolio;
pub(crate) mod preferences;
pub(crate) mod webhooks;
