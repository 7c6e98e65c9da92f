//! What runs: supervision of roles, and what instances tell about themselves.

pub mod status;
