//! `perennial endpoint status`, `perennial member list`, `perennial raft list-peers`: how the members stand.

use perennial_client::{Client, ClusterStatus, MemberSummary, Unavailable};
use perennial_types::{Configuration, format_duration};
use serde_json::json;

use crate::args::{Format, Global};
use crate::failure::{Exit, Failure};
use crate::{output, settings};

/// What one JobManager said, or why it did not.
type Answer = (String, Result<ClusterStatus, Unavailable>);

const COLUMNS: [&str; 15] = [
    "NAME",
    "ID",
    "ADDRESS",
    "ROLE",
    "VOTER",
    "TERM",
    "LAST-LOG",
    "COMMITTED",
    "APPLIED",
    "LAG",
    "QUORUM-ACK",
    "SNAPSHOT",
    "VERSION",
    "UPTIME",
    "ERROR",
];

/// One line: a member, and what it said of itself.
struct Row<'a> {
    name: String,
    address: String,
    member: Option<&'a MemberSummary>,
    said: Option<&'a ClusterStatus>,
    leads: bool,
    lag: Option<u64>,
    error: String,
}

/// The view of the leader, else the newest.
fn newest_of(answers: &[Answer]) -> Option<&ClusterStatus> {
    let statuses = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok());
    statuses.max_by_key(|status| (status.epoch, status.leader == Some(status.from), status.applied))
}

/// The view of the leader, else the newest, of those the client's endpoints have.
pub(crate) async fn newest(client: &Client) -> Option<ClusterStatus> {
    newest_of(&client.survey().await).cloned()
}

/// Every endpoint, or with `cluster` every member at its RPC port.
pub(crate) async fn status(
    cluster: bool,
    format: Format,
    global: &Global,
    config: &Configuration,
) -> Result<Exit, Failure> {
    let mut answers = settings::client(global, config)?.survey().await;
    if cluster {
        let members = newest_of(&answers).ok_or_else(|| nobody(&answers))?.members.clone();
        let addresses: Vec<String> = members.into_iter().map(|member| member.address).collect();
        answers = Client::survey_of(&addresses).await;
    }
    let view = newest_of(&answers).cloned();
    let rows = answers.iter().map(|(address, answer)| match answer {
        Ok(said) => {
            let member = said.members.iter().find(|member| member.id == said.from);
            let name = member.map_or_else(|| said.from.to_string(), |member| member.name.clone());
            row(name, address.clone(), member, Some(said), view.as_ref(), String::new())
        }
        Err(error) => {
            let at = view.as_ref().and_then(|view| view.members.iter().find(|member| member.address == *address));
            let name = at.map_or_else(|| "-".to_owned(), |member| member.name.clone());
            row(name, address.clone(), at, None, view.as_ref(), reason(address, error))
        }
    });
    print(rows.collect(), format)?;
    let all = answers.iter().all(|(_, answer)| answer.is_ok());
    Ok(if all { Exit::Done } else { Exit::Degraded })
}

/// Every member, as the leader sees it or else whoever knows most, with what those that answer say of themselves.
pub(crate) async fn members(format: Format, global: &Global, config: &Configuration) -> Result<Exit, Failure> {
    let answers = settings::client(global, config)?.survey().await;
    let view = newest_of(&answers).ok_or_else(|| nobody(&answers))?;
    let rows = view.members.iter().map(|member| {
        let said = answers.iter().filter_map(|(_, answer)| answer.as_ref().ok()).find(|said| said.from == member.id);
        row(member.name.clone(), member.address.clone(), Some(member), said, Some(view), String::new())
    });
    print(rows.collect(), format)?;
    Ok(Exit::Done)
}

fn nobody(answers: &[Answer]) -> Failure {
    let reasons = answers.iter().filter_map(|(address, answer)| Some((address, answer.as_ref().err()?)));
    let reasons: Vec<String> =
        reasons.map(|(address, error)| format!("{address}: {}", reason(address, error))).collect();
    Unavailable::Unreachable { reason: reasons.join("; ") }.into()
}

/// Why an endpoint did not answer, without what the line says already.
fn reason(address: &str, error: &Unavailable) -> String {
    match error {
        Unavailable::Unreachable { reason } => {
            reason.strip_prefix(address).and_then(|rest| rest.strip_prefix(": ")).unwrap_or(reason).to_owned()
        }
        other => other.to_string(),
    }
}

fn row<'a>(
    name: String,
    address: String,
    member: Option<&'a MemberSummary>,
    said: Option<&'a ClusterStatus>,
    view: Option<&ClusterStatus>,
    error: String,
) -> Row<'a> {
    let id = said.map(|said| said.from).or(member.map(|member| member.id));
    let seen = view.and_then(|view| view.members.iter().find(|seen| Some(seen.id) == id));
    // Only the leader knows how far the others are; each knows it of itself.
    let lag = seen.and_then(|seen| seen.lag).or(member.and_then(|member| member.lag));
    let leads = id.is_some() && view.is_some_and(|view| view.leader == id);
    Row { name, address, member, said, leads, lag, error }
}

impl Row<'_> {
    fn role(&self) -> &'static str {
        match (self.leads, self.said, self.member) {
            (true, ..) => "leader",
            (false, Some(said), _) => said.own.role.as_str(),
            (false, None, Some(member)) if !member.voter => "learner",
            (false, None, Some(_)) => "follower",
            (false, None, None) => "-",
        }
    }

    fn cells(&self) -> [String; 15] {
        let none = || "-".to_owned();
        let said = |what: fn(&ClusterStatus) -> String| self.said.map_or_else(none, what);
        let id = self.said.map(|said| said.from).or(self.member.map(|member| member.id));
        let ms = |ms: u64| format_duration(std::time::Duration::from_millis(ms));
        [
            self.name.clone(),
            id.map_or_else(none, |id| id.0.to_string()),
            self.address.clone(),
            self.role().to_owned(),
            self.member.map_or_else(none, |member| if member.voter { "yes" } else { "no" }.to_owned()),
            said(|said| said.epoch.to_string()),
            said(|said| said.own.last_log.to_string()),
            said(|said| said.own.committed.to_string()),
            said(|said| said.applied.to_string()),
            self.lag.map_or_else(none, |lag| lag.to_string()),
            self.said.and_then(|said| said.own.quorum_ack_ms).map_or_else(none, ms),
            said(|said| said.own.snapshot.to_string()),
            said(|said| said.own.version.clone()),
            self.said.map_or_else(none, |said| ms(said.own.uptime_ms / 1000 * 1000)),
            self.error.clone(),
        ]
    }

    fn json(&self) -> serde_json::Value {
        let (said, own) = (self.said, self.said.map(|said| &said.own));
        json!({
            "name": self.name,
            "id": said.map(|said| said.from).or(self.member.map(|member| member.id)),
            "address": self.address,
            "role": self.role(),
            "voter": self.member.map(|member| member.voter),
            "cluster": said.and_then(|said| said.cluster),
            "term": said.map(|said| said.epoch),
            "last-log": own.map(|own| own.last_log),
            "committed": own.map(|own| own.committed),
            "applied": said.map(|said| said.applied),
            "lag": self.lag,
            "quorum-ack-ms": own.and_then(|own| own.quorum_ack_ms),
            "snapshot": own.map(|own| own.snapshot),
            "version": own.map(|own| &own.version),
            "uptime-ms": own.map(|own| own.uptime_ms),
            "error": (!self.error.is_empty()).then_some(&self.error),
        })
    }
}

fn print(rows: Vec<Row<'_>>, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => output::json(&rows.iter().map(Row::json).collect::<Vec<_>>()),
        Format::Table => output::line(output::table(COLUMNS, rows.iter().map(Row::cells))),
    }
}
