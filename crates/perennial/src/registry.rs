//! The registry: the jobs of an artifact, and the roles its executable plays.

use std::ffi::OsString;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::process::ExitCode;

use perennial_runtime::UserError;
use perennial_types::PlanRequest;

use crate::args::Args;
use crate::error::with_causes;
use crate::roles::{self, Role, RoleError};
use crate::{JobError, StreamExecutionEnvironment};

/// Builds a job.
type Builder = Box<dyn Fn(&StreamExecutionEnvironment, &Args) -> Result<(), JobError>>;

/// The jobs of a program. `main` registers them and hands over with [`run`](Self::run):
///
/// ```no_run
/// use perennial::prelude::*;
///
/// fn main() -> std::process::ExitCode {
///     JobRegistry::new().job("numbers", numbers).run()
/// }
///
/// fn numbers(env: &StreamExecutionEnvironment, args: &Args) -> Result<(), JobError> {
///     env.from_sequence(0..args.parse_or("count", 10)?).map(|n| n * n).print();
///     Ok(())
/// }
/// ```
///
/// The program is then a job artifact: started without arguments of a role it runs a job in its own process, and a cluster
/// starts it to `describe`, `plan` and `exec`. A builder is run once in each role, possibly on other machines, and has to build the
/// same job every time: it reads nothing but its arguments.
#[derive(Default)]
pub struct JobRegistry {
    jobs: Vec<(String, Builder)>,
}

impl JobRegistry {
    /// A registry without jobs.
    pub fn new() -> Self {
        Self::default()
    }

    /// Registers a job under a name; `--job-classname NAME` picks it.
    ///
    /// The builder's error can be a [`JobError`], any other error, or a text.
    pub fn job<F, E>(mut self, name: &str, builder: F) -> Self
    where
        F: Fn(&StreamExecutionEnvironment, &Args) -> Result<(), E> + 'static,
        E: Into<UserError>,
    {
        let build = move |env: &StreamExecutionEnvironment, args: &Args| {
            builder(env, args).map_err(|error| match error.into().downcast::<JobError>() {
                Ok(error) => *error,
                Err(error) => JobError::Builder(error),
            })
        };
        self.jobs.push((name.to_owned(), Box::new(build)));
        self
    }

    /// Plays the role the process's arguments ask for. The exit code is 0 only when all went well; otherwise the error is on
    /// standard error, with the next step.
    pub fn run(self) -> ExitCode {
        let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
        self.run_with(&arguments)
    }

    /// As [`run`](Self::run), with these arguments, the program's name not among them. For a program that does other things as well.
    pub fn run_with(self, arguments: &[OsString]) -> ExitCode {
        match Role::parse(arguments).and_then(|role| roles::play(&self, role)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("error: {}", with_causes(&error));
                error.exit_code()
            }
        }
    }

    /// Whether arguments ask for one of the roles a cluster starts an artifact in: `describe`, `plan` or `exec`.
    pub fn is_cluster_role(arguments: &[OsString]) -> bool {
        arguments.first().is_some_and(|first| ["describe", "plan", "exec"].iter().any(|role| first == role))
    }

    /// Names of the jobs, in the order of registration.
    pub fn job_names(&self) -> impl Iterator<Item = &str> {
        self.jobs.iter().map(|(name, _)| name.as_str())
    }

    /// Runs the builder a request asks for. A panic in it is an error like any other.
    pub(crate) fn build(&self, request: &PlanRequest) -> Result<StreamExecutionEnvironment, RoleError> {
        let (name, builder) = self.find(request.job.as_deref())?;
        let env = StreamExecutionEnvironment::for_request(name, request).map_err(RoleError::Job)?;
        let args = Args::new(request.args.clone());
        match catch_unwind(AssertUnwindSafe(|| builder(&env, &args))) {
            Ok(built) => built.map_err(RoleError::Job)?,
            Err(panic) => {
                let message = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
                let message = message.or_else(|| panic.downcast_ref::<String>().cloned());
                return Err(RoleError::BuilderPanicked {
                    job: name.to_owned(),
                    message: message.unwrap_or_else(|| "no message".to_owned()),
                });
            }
        }
        Ok(env)
    }

    fn find(&self, name: Option<&str>) -> Result<(&str, &Builder), RoleError> {
        let names = || self.job_names().map(str::to_owned).collect::<Vec<_>>();
        match (name, self.jobs.as_slice()) {
            (None, [(name, builder)]) => Ok((name, builder)),
            (None, []) => Err(RoleError::NoJobs),
            (None, _) => Err(RoleError::WhichJob { names: names() }),
            (Some(wanted), jobs) => match jobs.iter().find(|(name, _)| name == wanted) {
                Some((name, builder)) => Ok((name, builder)),
                None => Err(RoleError::NoSuchJob { wanted: wanted.to_owned(), names: names() }),
            },
        }
    }
}
