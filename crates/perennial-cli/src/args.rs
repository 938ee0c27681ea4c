//! The command line. The doc comments are the help.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use perennial_types::{ClaimMode, JobId};

/// What every `--help` ends with.
const EXIT_CODES: &str = "Exit codes:
  0 done            1 failed                2 wrong usage
  3 no leader or nobody reached (try again) 5 not found
  6 refused         7 timed out, may go on  8 the job ended FAILED
  9 reachable but degraded (status)         130 interrupted";

/// Distributed stream processing with Flink's architecture. JobManagers form a Raft group; jobs keep running when one dies.
#[derive(Debug, Parser)]
#[command(name = "perennial", version, after_help = EXIT_CODES, disable_help_subcommand = true, max_term_width = 110)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of every command.
#[derive(Debug, Clone, Args)]
pub(crate) struct Global {
    /// JobManagers to ask, as host:port of their REST ports; any one that answers will do
    #[arg(long, global = true, env = "PERENNIAL_ENDPOINTS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub(crate) endpoints: Vec<String>,
    /// Configuration file; by default conf/config.yaml, if it exists
    #[arg(long, global = true, env = "PERENNIAL_CONFIG", value_name = "FILE", conflicts_with = "config_dir")]
    pub(crate) config: Option<PathBuf>,
    /// Directory of the configuration file config.yaml
    #[arg(long = "configDir", global = true, env = "PERENNIAL_CONF_DIR", value_name = "DIR")]
    pub(crate) config_dir: Option<PathBuf>,
    /// Sets an option; wins over file and environment. May be repeated
    #[arg(short = 'D', global = true, value_name = "KEY=VALUE")]
    pub(crate) options: Vec<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Try it: a cluster of real processes on this machine that runs a sample job
    Demo(Demo),
    /// Run a JobManager: a member of the group that leads, plans and keeps the metadata
    #[command(name = "jobmanager")]
    JobManager,
    /// Run a TaskManager: offers slots and supervises the executors of jobs
    #[command(name = "taskmanager")]
    TaskManager,
    /// Run a JobManager of a group that is there for one job, and ends with it (application mode)
    StandaloneJob(StandaloneJob),
    /// Submit a job and wait until it ends
    Run(Run),
    /// List jobs; running and scheduled ones unless told otherwise
    List(List),
    /// Cancel a job
    Cancel {
        /// The job, as `list` shows it
        #[arg(value_name = "JOB")]
        job: JobId,
    },
    /// Look into savepoints and checkpoints
    Savepoint {
        #[command(subcommand)]
        command: SavepointCommand,
    },
    /// Show what has failed of a job, newest first, with its cause
    Exceptions {
        /// The job, as `list` shows it
        #[arg(value_name = "JOB")]
        job: JobId,
        #[command(flatten)]
        output: Output,
    },
    /// Show what an artifact is, and the execution plan of one of its jobs
    Info(Info),
    /// Show whether the cluster is well: members, who leads, TaskManagers, jobs
    Status(Status),
    /// Ask the JobManager of this machine whether it serves: for health checks. Exit code 0 when it knows a leader
    Health,
    /// Show and change the members of the JobManager group
    Member {
        #[command(subcommand)]
        command: MemberCommand,
    },
    /// Show and change who leads the JobManager group, and how past leaderships began
    Raft {
        #[command(subcommand)]
        command: RaftCommand,
    },
    /// Ask JobManagers one by one
    Endpoint {
        #[command(subcommand)]
        command: EndpointCommand,
    },
    /// Keep the cluster's metadata in a file, look into it, and start a new cluster from it
    Snapshot {
        #[command(subcommand)]
        command: SnapshotCommand,
    },
    /// Bring back what is lost
    Recover {
        #[command(subcommand)]
        command: RecoverCommand,
    },
    /// Show options
    Config {
        #[command(subcommand)]
        command: ConfigCommand,
    },
    /// Show the version
    Version {
        #[command(flatten)]
        output: Output,
    },
}

/// Commands about members. A member is named as `member list` shows it, by name or by number.
#[derive(Debug, Subcommand)]
pub(crate) enum MemberCommand {
    /// List the members of the group, with or without a leader
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Add a JobManager to the group, first without a vote; prints how to start it
    Add {
        /// Its name, not used before, and the address of its RPC port
        #[arg(value_name = "NAME=HOST:PORT")]
        member: String,
    },
    /// Give a member a vote; refused while it lacks entries of the log
    Promote {
        /// The member
        #[arg(value_name = "NAME|ID")]
        member: String,
    },
    /// Take a member out of the group for good; refused when a quorum would be lost
    Remove {
        /// The member
        #[arg(value_name = "NAME|ID")]
        member: String,
    },
}

/// Commands about the leadership.
#[derive(Debug, Subcommand)]
pub(crate) enum RaftCommand {
    /// List the members of the group: the same as `member list`
    ListPeers {
        #[command(flatten)]
        output: Output,
    },
    /// Hand the leadership over
    TransferLeader {
        /// Who is to lead; by default the member that is furthest
        #[arg(value_name = "NAME|ID")]
        to: Option<String>,
    },
    /// Show past leaderships, newest first: why each began, and how long each phase took from the loss of the one before
    History {
        #[command(flatten)]
        output: Output,
    },
}

/// Commands about single JobManagers.
#[derive(Debug, Subcommand)]
pub(crate) enum EndpointCommand {
    /// Show how every endpoint stands, as it says itself; exit code 9 when one is not reached
    Status {
        /// Ask every member of the group, at its RPC port, instead of the endpoints
        #[arg(long)]
        cluster: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Commands about snapshot files.
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save the metadata of now. Artifacts are named in it, their bytes are not in it
    Save {
        /// Where to
        #[arg(value_name = "FILE")]
        file: PathBuf,
    },
    /// Check a file and show what is in it; needs no cluster
    Inspect {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        #[command(flatten)]
        output: Output,
    },
    /// Make the data directory of a new cluster from a file; needs no cluster
    Restore {
        /// The file
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// The new JobManager's jobmanager.data-dir; must be empty or not exist
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// The new JobManager's name
        #[arg(long, value_name = "NAME")]
        name: String,
        /// All members of the new group; each restores the same file with the same list. By default this one alone
        #[arg(long, value_name = "NAME=HOST:PORT,…")]
        peers: Option<String>,
    },
}

/// Commands for the worst.
#[derive(Debug, Subcommand)]
pub(crate) enum RecoverCommand {
    /// Make the JobManager of a data directory the only member, after a majority was lost for good. Shows what it would do,
    /// unless told to do it
    Quorum {
        /// Its jobmanager.data-dir; no process may use it
        #[arg(long, value_name = "DIR")]
        data_dir: PathBuf,
        /// Do it: what only the lost members knew is lost
        #[arg(long)]
        i_accept_data_loss: bool,
    },
}

/// Form of a listing.
#[derive(Debug, Clone, Copy, Args)]
pub(crate) struct Output {
    /// Form of the output
    #[arg(short = 'o', long = "output", value_enum, default_value_t = Format::Table)]
    pub(crate) format: Format,
}

/// See [`Output`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Table,
    /// For programs
    Json,
}

/// Which job of an artifact, with what.
#[derive(Debug, Args)]
pub(crate) struct JobChoice {
    /// Which job of the artifact; needed when it has several
    #[arg(short = 'c', long = "job-classname", visible_aliases = ["class", "job"], value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// Parallelism of operators that name none
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallelism: Option<u32>,
    /// The job's executable
    #[arg(value_name = "ARTIFACT")]
    pub(crate) artifact: PathBuf,
    /// The job's own arguments, after `--`
    #[arg(last = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

/// Options of `standalone-job`: the same for every JobManager of the group.
#[derive(Debug, Args)]
pub(crate) struct StandaloneJob {
    /// Which job of the artifact; needed when it has several
    #[arg(short = 'j', long = "job-classname", visible_alias = "class", value_name = "NAME")]
    pub(crate) job: Option<String>,
    /// The job's id; by default it is made of the cluster's, so that it stays the same
    #[arg(long, visible_alias = "jobid", value_name = "ID")]
    pub(crate) job_id: Option<JobId>,
    /// The job's executable; by default the only file in /opt/perennial/usrlib (or /opt/flink/usrlib)
    #[arg(long, value_delimiter = ',', value_name = "FILE")]
    pub(crate) jars: Vec<String>,
    /// Parallelism of operators that name none
    #[arg(short, long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) parallelism: Option<u32>,
    /// The job's own arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGS")]
    pub(crate) args: Vec<String>,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub(crate) struct Run {
    /// Return once the job is accepted, without waiting for its end
    #[arg(short, long)]
    pub(crate) detached: bool,
    #[command(flatten)]
    pub(crate) restore: Restore,
    #[command(flatten)]
    pub(crate) choice: JobChoice,
}

/// What a job starts from.
#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// Start from this savepoint, or from a checkpoint that was kept: its directory
    #[arg(short = 's', long = "fromSavepoint", value_name = "PATH")]
    pub(crate) from: Option<String>,
    /// Leave out state of operators that the job does not have, which is refused else
    #[arg(short = 'n', long = "allowNonRestoredState", requires = "from")]
    pub(crate) allow_non_restored: bool,
    /// Who owns its files: NO_CLAIM leaves them to you, CLAIM has the job delete them when it needs them no more
    #[arg(long = "claimMode", visible_alias = "restoreMode", value_name = "MODE", default_value_t, requires = "from")]
    pub(crate) claim: ClaimMode,
}

/// Options of `list`.
#[derive(Debug, Args)]
pub(crate) struct List {
    /// Running and restarting jobs only
    #[arg(short, long, conflicts_with_all = ["scheduled", "all"])]
    pub(crate) running: bool,
    /// Jobs that wait for slots only
    #[arg(short, long, conflicts_with = "all")]
    pub(crate) scheduled: bool,
    /// Ended jobs too
    #[arg(short, long)]
    pub(crate) all: bool,
    /// Ask one member for what it last heard of, with or without a leader; it says how old that is
    #[arg(long)]
    pub(crate) stale: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {
    /// Show the jobs one member last heard of, with or without a leader; it says how old that is
    #[arg(long)]
    pub(crate) stale: bool,
    /// Show it again every second until Ctrl-C
    #[arg(long, conflicts_with = "wait_healthy")]
    pub(crate) watch: bool,
    /// Wait until the cluster is well; exit code 7 when it is not within this time, such as 60s
    #[arg(long, value_name = "DURATION", value_parser = perennial_types::parse_duration)]
    pub(crate) wait_healthy: Option<std::time::Duration>,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Options of `info`.
#[derive(Debug, Args)]
pub(crate) struct Info {
    #[command(flatten)]
    pub(crate) choice: JobChoice,
    #[command(flatten)]
    pub(crate) output: Output,
}

/// Commands about savepoints.
#[derive(Debug, Subcommand)]
pub(crate) enum SavepointCommand {
    /// Check a savepoint or checkpoint and show what is in it; needs no cluster
    Inspect {
        /// Its directory
        #[arg(value_name = "PATH")]
        path: String,
        #[command(flatten)]
        output: Output,
    },
    /// Show which state would go to which operator of a job, without running it; needs no cluster
    Check {
        /// Directory of the savepoint or checkpoint
        #[arg(value_name = "PATH")]
        path: String,
        /// Leave out state of operators that the job does not have
        #[arg(short = 'n', long = "allowNonRestoredState")]
        allow_non_restored: bool,
        #[command(flatten)]
        choice: JobChoice,
        #[command(flatten)]
        output: Output,
    },
}

/// Commands about options.
#[derive(Debug, Subcommand)]
pub(crate) enum ConfigCommand {
    /// Show the effective value of every option
    Show {
        /// Also show where each value comes from
        #[arg(long)]
        origin: bool,
        #[command(flatten)]
        output: Output,
    },
}

/// Options of `demo`.
#[derive(Debug, Args)]
pub(crate) struct Demo {
    #[command(subcommand)]
    pub(crate) command: Option<DemoCommand>,
    /// End by itself after the leader was killed once; exit code 0 if no task noticed and every result is right
    #[arg(long)]
    pub(crate) once: bool,
    /// JobManagers to start
    #[arg(long, global = true, default_value_t = 3, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) jobmanagers: u16,
    /// TaskManagers to start
    #[arg(long, global = true, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=9))]
    pub(crate) taskmanagers: u16,
    /// Count the words of this text instead, and kill nobody
    #[arg(long, value_name = "FILE")]
    pub(crate) input: Option<PathBuf>,
    /// Directory for everything the processes write; kept afterwards
    #[arg(long, global = true, value_name = "DIR")]
    pub(crate) keep: Option<PathBuf>,
}

/// What else to demonstrate.
#[derive(Debug, Subcommand)]
pub(crate) enum DemoCommand {
    /// Kill the leader again and again, and show what it costs
    Failover {
        /// How often
        #[arg(long, default_value_t = 10, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
        times: u32,
    },
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    fn parse(line: &str) -> Result<Cli, clap::Error> {
        Cli::try_parse_from(std::iter::once("perennial").chain(line.split_whitespace()))
    }

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn run_takes_flinks_flags_and_leaves_the_jobs_arguments_alone() {
        let cli = parse("run -d -p 4 -c words -D a=b -Dc=d=e --endpoints h1:1,h2:2 ./job -- -p 9 --input x").unwrap();
        let Command::Run(run) = cli.command else { panic!("{cli:?}") };
        assert!(run.detached);
        assert_eq!((run.choice.parallelism, run.choice.job.as_deref()), (Some(4), Some("words")));
        assert_eq!(run.choice.artifact, PathBuf::from("./job"));
        assert_eq!(run.choice.args, ["-p", "9", "--input", "x"]);
        assert_eq!(cli.global.options, ["a=b", "c=d=e"]);
        assert_eq!(cli.global.endpoints, ["h1:1", "h2:2"]);
    }

    #[test]
    fn a_standalone_job_takes_flinks_flags_and_then_the_jobs_own() {
        let cli = parse("standalone-job --job-classname words -D a=b --jars /opt/job --input x -p 9").unwrap();
        let Command::StandaloneJob(job) = cli.command else { panic!("{cli:?}") };
        assert_eq!((job.job.as_deref(), job.job_id, job.parallelism), (Some("words"), None, None));
        assert_eq!((job.jars, job.args.join(" ")), (vec!["/opt/job".to_owned()], "--input x -p 9".to_owned()));
        let id = "0".repeat(31) + "7";
        let cli = parse(&format!("standalone-job --job-id {id} --jars a,b")).unwrap();
        let Command::StandaloneJob(job) = cli.command else { panic!("{cli:?}") };
        assert_eq!((job.job_id.map(|job| job.to_string()), job.jars.len()), (Some(id), 2));
    }

    #[test]
    fn wrong_usage_is_refused() {
        for line in [
            "run",
            "run -n ./job",
            "run -s /s --claimMode LEGACY ./job",
            "run -p 0 ./job",
            "list -r -s",
            "cancel",
            "cancel 12",
            "list -o xml",
            "demo --jobmanagers 0",
            "demo failover --times 0",
        ] {
            assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
        }
    }

    #[test]
    fn exit_codes_are_in_the_help() {
        assert!(Cli::command().render_long_help().to_string().contains("8 the job ended FAILED"));
    }
}
