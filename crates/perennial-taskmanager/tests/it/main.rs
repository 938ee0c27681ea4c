//! A TaskManager between JobManagers and executors that the tests play.

#[cfg(test)]
mod executor;
#[cfg(test)]
mod jobmanager;
#[cfg(test)]
mod scenarios;
