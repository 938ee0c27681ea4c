//! How commands end: exit codes, and errors with the next step.

use std::process::ExitCode;

use perennial_client::{
    AddressError, ArtifactFileError, CancelJobError, GroupError, PrepareError, PutArtifactError, RoleError,
    SubmitError, SubmitJobError, Unavailable,
};

/// How a command ended. The numbers are in `--help`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did what it was asked.
    Done = 0,
    /// It did not.
    Failed = 1,
    /// It was asked for something that makes no sense.
    Usage = 2,
    /// No leader, or nobody was reached.
    Unavailable = 3,
    /// What it was asked about does not exist.
    NotFound = 5,
    /// The cluster refused.
    Refused = 6,
    /// Time is over; what was waited for may still come.
    TimedOut = 7,
    /// The job it waited for failed.
    JobFailed = 8,
    /// The cluster answers, but is not well.
    Degraded = 9,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        ExitCode::from(exit as u8)
    }
}

/// An error with what to do about it.
#[derive(Debug)]
pub(crate) struct Failure {
    error: anyhow::Error,
    hint: Option<String>,
    exit: Exit,
}

impl Failure {
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { error: error.into(), hint: None, exit }
    }

    pub(crate) fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }

    /// Whether no leader answered.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.exit == Exit::Unavailable
    }

    /// Prints the error with all its causes and the next step, and gives the exit code.
    pub(crate) fn report(&self) -> Exit {
        eprintln!("{self}");
        self.exit
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "error: {:#}", self.error)?;
        match &self.hint {
            Some(hint) => write!(f, "\nhint: {hint}"),
            None => Ok(()),
        }
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

impl From<Unavailable> for Failure {
    fn from(error: Unavailable) -> Self {
        let hint = match &error {
            Unavailable::Unreachable { .. } => {
                "start a JobManager (perennial jobmanager), or name one that runs: --endpoints HOST:PORT (PERENNIAL_ENDPOINTS)"
            }
            Unavailable::NoLeader { .. } => "a majority of the JobManagers has to run; perennial status shows who does",
            Unavailable::Store { .. } => "look into the leader's log, then try again",
            Unavailable::NoRoom { .. } => {
                let hint = "make room there, or give it less to keep free; running jobs go on meanwhile";
                return Self::new(Exit::Refused, error).hint(hint);
            }
        };
        Self::new(Exit::Unavailable, error).hint(hint)
    }
}

impl From<GroupError> for Failure {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Unavailable(error) => error.into(),
            GroupError::UnknownMember(_) => {
                Self::new(Exit::NotFound, error).hint("perennial member list shows the members")
            }
            GroupError::Refused(_) => Self::new(Exit::Refused, error),
        }
    }
}

impl From<AddressError> for Failure {
    fn from(error: AddressError) -> Self {
        Self::new(Exit::Usage, error).hint("--endpoints takes host:port, several joined by commas")
    }
}

impl From<PrepareError> for Failure {
    fn from(error: PrepareError) -> Self {
        let hint = match &error {
            PrepareError::File(ArtifactFileError::Missing { .. }) => "build it first, or correct the path".to_owned(),
            PrepareError::File(ArtifactFileError::NotExecutable { path }) => {
                format!("if it is a job artifact: chmod +x {}", path.display())
            }
            PrepareError::File(ArtifactFileError::WrongMachine { .. }) => format!(
                "build it for the cluster's machines: cargo build --release --target {}-unknown-linux-gnu",
                std::env::consts::ARCH
            ),
            PrepareError::File(ArtifactFileError::Read { .. }) => "check the file and its permissions".to_owned(),
            PrepareError::File(_) => {
                "a job artifact is a program whose main calls perennial::JobRegistry::run".to_owned()
            }
            PrepareError::Role(RoleError::TimedOut { .. }) => {
                "a builder only describes the job; give it more time with -D jobmanager.plan-timeout=30s".to_owned()
            }
            PrepareError::Role(_) => {
                "the job's own arguments follow --; run the artifact by itself to see more".to_owned()
            }
            PrepareError::Protocol { .. } => {
                format!("rebuild it with version {} of the library perennial", env!("CARGO_PKG_VERSION"))
            }
            PrepareError::UnknownJob { path, .. } | PrepareError::AmbiguousJob { path, .. } => {
                format!("perennial info {path} shows its jobs; choose one with --job-classname NAME")
            }
        };
        Self::new(Exit::Failed, error).hint(hint)
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let (exit, hint) = match error {
            SubmitError::Unavailable(error) => return error.into(),
            SubmitError::Upload { source: PutArtifactError::TooLarge { .. }, .. } => {
                (Exit::Refused, "build it with --release and strip = true, or raise rest.server.max-content-length")
            }
            SubmitError::Upload { source: PutArtifactError::WrongTarget { .. }, .. } => {
                (Exit::Refused, "build it for the cluster's machines: cargo build --release --target …")
            }
            SubmitError::Upload { .. } => (Exit::Refused, "wait until the file is written, then run this again"),
            SubmitError::Submit(SubmitJobError::InvalidGraph { .. }) => {
                (Exit::Refused, "this is a fault of the library or of its version; rebuild the artifact")
            }
            SubmitError::Submit(SubmitJobError::CannotRestore { .. }) => (
                Exit::Refused,
                "nothing was changed; perennial savepoint inspect PATH shows what is there, perennial savepoint check PATH ARTIFACT \
                 how the job fits",
            ),
            SubmitError::Submit(_) => (Exit::Refused, "run this again"),
        };
        Self::new(exit, error).hint(hint)
    }
}

impl From<CancelJobError> for Failure {
    fn from(error: CancelJobError) -> Self {
        match error {
            CancelJobError::Unavailable(error) => error.into(),
            CancelJobError::UnknownJob { .. } => {
                Self::new(Exit::NotFound, error).hint("perennial list -a shows the jobs there are")
            }
            CancelJobError::AlreadyEnded { .. } => {
                Self::new(Exit::Refused, error).hint("there is nothing left to cancel")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_shows_its_causes_and_the_next_step() {
        let source = PutArtifactError::TooLarge { size: 7, limit: 5 };
        let failure = Failure::from(SubmitError::Upload { path: "./job".to_owned(), source });
        assert_eq!(
            failure.to_string(),
            "error: cannot upload artifact ./job: it has 7 bytes, more than the limit of 5 bytes \
             (rest.server.max-content-length)\n\
             hint: build it with --release and strip = true, or raise rest.server.max-content-length"
        );
        assert_eq!(failure.exit, Exit::Refused);
    }

    #[test]
    fn unreachable_clusters_have_their_own_exit_code() {
        let failure = Failure::from(Unavailable::Unreachable { reason: "a:1: connection refused".to_owned() });
        assert_eq!(failure.exit as u8, 3);
        assert!(
            failure
                .to_string()
                .starts_with("error: no JobManager answers: a:1: connection refused\nhint: start a JobManager")
        );
    }
}
