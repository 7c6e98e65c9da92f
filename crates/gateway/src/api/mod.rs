//! The parts of a request, the responses, and the errors, for all handlers.

mod error;
mod request;
mod response;

pub(crate) use error::ApiError;
pub(crate) use request::{
    HeadOnly, allow, check_kinds, json_body, path_segments, query_parameters,
};
pub(crate) use response::{Body, json_response, text_response};
