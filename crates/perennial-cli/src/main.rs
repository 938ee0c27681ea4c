//! The binary `perennial`: every process of a cluster, every command of its users, and the sample jobs.
//!
//! It is a job artifact too: started in the role `describe`, `plan` or `exec` it is one of the sample jobs, so that the
//! demonstration submits a real artifact and a fresh clone needs one build.

mod args;
mod command;
mod demo;
mod failure;
mod output;
mod settings;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;
use perennial::JobRegistry;

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    if JobRegistry::is_cluster_role(&arguments) {
        return perennial_examples::registry()
            .job(demo::wordcount::NAME, demo::wordcount::build)
            .job(demo::steps::NAME, demo::steps::build)
            .run_with(&arguments);
    }
    let cli = args::Cli::parse();
    match command::run(cli.global, cli.command) {
        Ok(exit) => exit.into(),
        Err(failure) => failure.report().into(),
    }
}
