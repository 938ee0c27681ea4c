//! Tables of events by subject, then any events in any order, then a small world with faults.

mod checkpoints;
mod exceptions;
mod fixture;
mod laws;
mod life;
mod loss;
mod restart;
mod takeover;
mod world;
