//! What runs: an installation put together, supervision of roles, and what instances tell about themselves.

pub mod clock;
pub mod demo;
pub mod rebuild;
pub mod replay;
pub mod scan;
pub mod signals;
pub mod status;
pub mod supervisor;
pub mod system;
pub mod travel;
pub mod verify;
