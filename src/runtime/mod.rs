//! What runs: supervision of roles, and what instances tell about themselves.

pub mod clock;
pub mod signals;
pub mod status;
pub mod supervisor;
