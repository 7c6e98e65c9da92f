//! The audit log as an auditor meets it: is it whole, what does it say about an order, and does a
//! copy of it prove itself? Rows A1 and A2, on real roles over a log in memory, whose records are
//! then tampered with at will.

mod anchors;
mod bound;
mod damage;
mod export;
mod find;
mod tape;
mod world;
