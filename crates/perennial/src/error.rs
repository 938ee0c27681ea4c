//! Why a job could not be built or run.

use perennial_runtime::UserError;
use perennial_runtime::local::LocalError;
use perennial_types::config::SetError;

/// Why a job could not be built, planned or run.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// An operator cannot be what the builder says.
    #[error("operator `{operator}`: {problem}; {remedy}")]
    Operator {
        /// Its name.
        operator: String,
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// State is stored under uids, so each operator needs its own.
    #[error("uids given to more than one operator: {}; give each operator a uid of its own", .0.join(", "))]
    DuplicateUids(Vec<String>),
    /// The builder made nothing.
    #[error("the job has no operators; begin with a source such as `env.from_sequence(0..100)`")]
    NoOperators,
    /// Nothing leaves the job.
    #[error("the job has no sink; end each stream in one, such as `print()` or `discard()`")]
    NoSink,
    /// The job as a whole cannot be what the builder says.
    #[error("{problem}; {remedy}")]
    Job {
        /// What is wrong.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// An option is not one or has a bad value.
    #[error(transparent)]
    Option(#[from] SetError),
    /// One of the program's arguments is missing or of the wrong form.
    #[error("argument `--{name}` {problem}")]
    Argument {
        /// Its name.
        name: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The builder's own error.
    #[error("the job's builder failed")]
    Builder(#[source] UserError),
    /// The job ran in this process and failed.
    #[error("the job failed")]
    Run(#[from] LocalError),
}

impl JobError {
    /// An error of the builder's own.
    pub fn other(error: impl Into<UserError>) -> Self {
        Self::Builder(error.into())
    }

    pub(crate) fn operator(name: &str, problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Operator { operator: name.to_owned(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn job(problem: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self::Job { problem: problem.into(), remedy: remedy.into() }
    }
}

/// An error with all its causes on one line, as it is printed and reported.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
