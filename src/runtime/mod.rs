//! The runtime: the parts of an installation, supervision of roles, and the status of instances.

mod busts;
pub mod demo;
pub mod lag;
pub mod limits;
pub mod rebuild;
pub mod repair;
pub mod replay;
#[cfg(test)]
pub(crate) mod said;
mod scratch;
pub mod settings;
pub mod signals;
pub mod standing;
pub mod status;
pub mod stderr;
pub mod supervisor;
pub mod system;
pub mod travel;
pub mod verify;
