//! The parts of a request, the responses, and the errors, for all handlers.

mod error;
mod problem;
mod request;
mod response;

pub(crate) use error::{ApiError, TOO_MANY_REQUESTS};
pub(crate) use problem::Problem;
pub(crate) use request::{
    HeadOnly, allow, body_bytes, check_kinds, json_body, path_segments, query_parameters,
};
pub(crate) use response::{Body, json_response, text_response};
