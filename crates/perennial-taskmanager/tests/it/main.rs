//! A TaskManager between JobManagers and executors that the tests play.

mod executor;
mod jobmanager;
mod scenarios;
