//! The roles of a job's executable, chosen by its arguments.
//!
//! | Arguments | Does |
//! | --- | --- |
//! | `describe` | prints the [`ArtifactManifest`](perennial_types::ArtifactManifest) as one line of JSON |
//! | `plan --request FILE --output FILE` | reads a [`PlanRequest`](perennial_types::PlanRequest), runs the builder, writes the JobGraph; standard output is the builder's own |
//! | `exec --spec FILE` | reads an [`ExecutorSpec`](perennial_rpc::executor::ExecutorSpec), rebuilds the job, runs its subtasks for a TaskManager |
//! | anything else | runs a job in this process: `[--job-classname NAME] [-p N] [-D key=value] [--] ARGUMENTS` |

mod describe;
mod exec;
pub(crate) mod local;
mod plan;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use perennial_types::PlanRequest;
use perennial_types::config::options;

use crate::{JobError, JobRegistry};

/// A role with its arguments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    Describe,
    Plan { request: PathBuf, output: PathBuf },
    Exec { spec: PathBuf },
    Local(PlanRequest),
}

/// Why a role was not played to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RoleError {
    #[error("{0}")]
    Usage(String),
    #[error("this program registers no jobs; add one with `JobRegistry::new().job(name, builder)`")]
    NoJobs,
    #[error("this program has several jobs; choose one with `--job-classname NAME`, before the job's own arguments: {}", .names.join(", "))]
    WhichJob { names: Vec<String> },
    #[error("no job is named `{wanted}`; there {}: {}", if .names.len() == 1 { "is" } else { "are" }, .names.join(", "))]
    NoSuchJob { wanted: String, names: Vec<String> },
    #[error("the builder of job `{job}` panicked: {message}")]
    BuilderPanicked { job: String, message: String },
    #[error(transparent)]
    Job(JobError),
    #[error("{path} cannot be {done}")]
    File { path: PathBuf, done: &'static str, source: std::io::Error },
    #[error("{path} is not {what}")]
    Malformed { path: PathBuf, what: &'static str, source: serde_json::Error },
    #[error(
        "the job built here is not the one that was planned (hash {built:016x}, planned {planned:016x}): \
         the builder is not deterministic; it must depend on nothing but its arguments, not on time, environment, files or the order of a HashMap"
    )]
    OtherJob { built: u64, planned: u64 },
    #[error("the executor failed")]
    Executor(#[source] perennial_runtime::executor::ExecutorError),
}

impl RoleError {
    /// 2 for wrong arguments, 1 for everything else.
    pub(crate) fn exit_code(&self) -> ExitCode {
        match self {
            Self::Usage(_) | Self::WhichJob { .. } | Self::NoSuchJob { .. } => ExitCode::from(2),
            _ => ExitCode::FAILURE,
        }
    }
}

/// Plays a role.
pub(crate) fn play(registry: &JobRegistry, role: Role) -> Result<(), RoleError> {
    match role {
        Role::Describe => describe::describe(registry),
        Role::Plan { request, output } => plan::plan(registry, &request, &output),
        Role::Exec { spec } => exec::exec(registry, &spec),
        Role::Local(request) => local::play(registry, request),
    }
}

impl Role {
    /// Reads arguments, the program's name not among them.
    pub(crate) fn parse(arguments: &[OsString]) -> Result<Self, RoleError> {
        match arguments.split_first() {
            Some((role, rest)) if role == "describe" => match rest {
                [] => Ok(Self::Describe),
                _ => Err(RoleError::Usage("`describe` takes no arguments".to_owned())),
            },
            Some((role, rest)) if role == "plan" => {
                let [request, output] = files(rest, "plan", ["--request", "--output"])?;
                Ok(Self::Plan { request, output })
            }
            Some((role, rest)) if role == "exec" => {
                let [spec] = files(rest, "exec", ["--spec"])?;
                Ok(Self::Exec { spec })
            }
            _ => local_request(arguments).map(Self::Local),
        }
    }
}

/// The files behind these flags, each given once.
fn files<const N: usize>(arguments: &[OsString], role: &str, flags: [&str; N]) -> Result<[PathBuf; N], RoleError> {
    let usage = || {
        let usage: Vec<String> = flags.iter().map(|flag| format!("{flag} FILE")).collect();
        RoleError::Usage(format!("usage: {role} {}", usage.join(" ")))
    };
    if arguments.len() != 2 * N {
        return Err(usage());
    }
    let mut found = Vec::new();
    for flag in flags {
        let pair = arguments.chunks_exact(2).find_map(|pair| match pair {
            [name, value] if name == flag => Some(PathBuf::from(value)),
            _ => None,
        });
        found.push(pair.ok_or_else(usage)?);
    }
    found.try_into().map_err(|_| usage())
}

/// The library's own options come first; what it does not know, and all behind `--`, is the job's.
fn local_request(arguments: &[OsString]) -> Result<PlanRequest, RoleError> {
    let mut texts = Vec::new();
    for argument in arguments {
        let text =
            argument.to_str().ok_or_else(|| RoleError::Usage(format!("argument {argument:?} is not UTF-8 text")))?;
        texts.push(text);
    }
    let mut request = PlanRequest::default();
    let mut rest = texts.as_slice();
    while let Some((flag, after)) = rest.split_first() {
        let (flag, inline) = match flag.split_once('=') {
            Some((name, value)) if name.starts_with("--") => (name, Some(value)),
            _ => (*flag, None),
        };
        if flag == "--" {
            rest = after;
            break;
        }
        if !["--job-classname", "--job", "-c", "--parallelism", "-p", "-D"].contains(&flag) {
            break;
        }
        let (value, after) = match (inline, after.split_first()) {
            (Some(value), _) => (value, after),
            (None, Some((value, after))) => (*value, after),
            (None, None) => return Err(RoleError::Usage(format!("`{flag}` needs a value"))),
        };
        match flag {
            "--parallelism" | "-p" => {
                request.config.insert(options::PARALLELISM_DEFAULT.key.to_owned(), value.to_owned());
            }
            "-D" => {
                let Some((key, value)) = value.split_once('=') else {
                    return Err(RoleError::Usage(format!("`-D {value}`: expected `-D key=value`")));
                };
                request.config.insert(key.to_owned(), value.to_owned());
            }
            _ => request.job = Some(value.to_owned()),
        }
        rest = after;
    }
    request.args = rest.iter().map(|text| (*text).to_owned()).collect();
    Ok(request)
}

/// Reads a JSON document.
fn read_json<T: serde::de::DeserializeOwned>(path: &std::path::Path, what: &'static str) -> Result<T, RoleError> {
    let file = |source| RoleError::File { path: path.to_owned(), done: "read", source };
    let bytes = std::fs::read(path).map_err(file)?;
    serde_json::from_slice(&bytes).map_err(|source| RoleError::Malformed { path: path.to_owned(), what, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Role, String> {
        let arguments: Vec<OsString> = line.split_whitespace().map(OsString::from).collect();
        Role::parse(&arguments).map_err(|error| error.to_string())
    }

    fn local(job: Option<&str>, args: &[&str], config: &[(&str, &str)]) -> Role {
        Role::Local(PlanRequest {
            job: job.map(str::to_owned),
            args: args.iter().map(|text| (*text).to_owned()).collect(),
            config: config.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect(),
        })
    }

    #[test]
    fn arguments_choose_the_role() {
        assert_eq!(parse("describe"), Ok(Role::Describe));
        assert_eq!(parse("exec --spec s.json"), Ok(Role::Exec { spec: "s.json".into() }));
        let plan = Role::Plan { request: "r".into(), output: "o".into() };
        assert_eq!(parse("plan --output o --request r"), Ok(plan));
        assert_eq!(parse("plan --request r"), Err("usage: plan --request FILE --output FILE".to_owned()));
        assert_eq!(parse("exec --spec"), Err("usage: exec --spec FILE".to_owned()));
    }

    #[test]
    fn everything_else_runs_a_job_here() {
        assert_eq!(parse(""), Ok(local(None, &[], &[])));
        assert_eq!(parse("--input x --job y"), Ok(local(None, &["--input", "x", "--job", "y"], &[])));
        assert_eq!(
            parse("--job wc -p 4 -D a=b=c --input x"),
            Ok(local(Some("wc"), &["--input", "x"], &[("a", "b=c"), ("parallelism.default", "4")]))
        );
        assert_eq!(parse("--job-classname=wc -- -p 4"), Ok(local(Some("wc"), &["-p", "4"], &[])));
        assert_eq!(parse("-p"), Err("`-p` needs a value".to_owned()));
        assert_eq!(parse("-D nothing"), Err("`-D nothing`: expected `-D key=value`".to_owned()));
    }
}
