//! Groups of real members over real TCP on 127.0.0.1, in one process.

mod harness;
mod identity;
mod serving;
mod storage;
