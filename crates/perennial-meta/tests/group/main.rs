//! Groups of real members over real TCP on 127.0.0.1, in one process.

#[cfg(test)]
mod deaf;
#[cfg(test)]
mod harness;
#[cfg(test)]
mod identity;
#[cfg(test)]
mod members;
#[cfg(test)]
mod serving;
#[cfg(test)]
mod storage;
#[cfg(test)]
mod succession;
