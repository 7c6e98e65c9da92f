//! The running system: an installation put together, supervision of roles, and the status of
//! instances. Modules that only read the log are built without RocksDB, too, so that its tests need
//! no C++.

pub mod audit;
#[cfg(any(test, feature = "rocks"))]
mod busts;
pub mod clock;
#[cfg(feature = "rocks")]
pub mod demo;
pub mod lag;
#[cfg(feature = "rocks")]
pub mod limits;
#[cfg(feature = "rocks")]
pub mod rebuild;
#[cfg(feature = "rocks")]
pub mod repair;
#[cfg(feature = "rocks")]
pub mod replay;
#[cfg(all(test, feature = "rocks"))]
pub(crate) mod said;
pub mod scan;
#[cfg(feature = "rocks")]
mod scratch;
#[cfg(feature = "rocks")]
pub mod settings;
#[cfg(feature = "rocks")]
pub mod signals;
#[cfg(feature = "rocks")]
pub mod standing;
#[cfg(feature = "rocks")]
pub mod status;
#[cfg(feature = "rocks")]
pub mod stderr;
#[cfg(feature = "rocks")]
pub mod supervisor;
#[cfg(feature = "rocks")]
pub mod system;
#[cfg(feature = "rocks")]
pub mod travel;
#[cfg(feature = "rocks")]
pub mod verify;
