//! Which TaskManagers this member hears, and the watch over those it does not hear while it leads.
//!
//! What the watch decides is [`perennial_coordination::attendance`]; here is where it looks, asks and hands over.

use std::collections::{BTreeMap, HashMap};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use perennial_base::{OnError, TaskGroup};
use perennial_coordination::attendance::{Effect, Silences, Watch};
use perennial_meta::MetaStore;
use perennial_rpc::attendance::{AttendanceClient, AttendanceGateway, Attendant};
use perennial_rpc::dispatcher::Unavailable;
use perennial_rpc::transport;
use perennial_types::{JobManagerId, TaskManagerId};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::role::{Role, RoleWatch};

/// Longest time between two looks, however long TaskManagers may be silent.
const LOOK_EVERY_MAX: Duration = Duration::from_secs(1);

/// Who is heard on the streams of this member. Cheap to clone.
#[derive(Clone, Default)]
pub(crate) struct Attendance {
    streams: Arc<Mutex<Streams>>,
}

#[derive(Default)]
struct Streams {
    next: u64,
    /// By TaskManager the stream it was heard on last, and when. At most one for each open stream.
    heard: HashMap<TaskManagerId, (u64, Instant)>,
}

/// A stream among those of this member; dropped when the stream ends.
pub(crate) struct Seat {
    attendance: Attendance,
    number: u64,
    taken_by: Option<TaskManagerId>,
}

impl Attendance {
    /// A stream was opened; who by, its heartbeats will say.
    pub(crate) fn seat(&self) -> Seat {
        let number = self.change(|streams| {
            streams.next += 1;
            streams.next
        });
        Seat { attendance: self.clone(), number, taken_by: None }
    }

    /// How long each TaskManager with a stream has been silent.
    fn silences(&self) -> Silences {
        self.change(|streams| streams.heard.iter().map(|(id, (_, at))| (id.clone(), at.elapsed())).collect())
    }

    fn change<T>(&self, with: impl FnOnce(&mut Streams) -> T) -> T {
        with(&mut self.streams.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl AttendanceGateway for Attendance {
    async fn attending(&self) -> Result<Vec<Attendant>, Unavailable> {
        let all = self.silences().into_iter();
        Ok(all.map(|(taskmanager, silence)| Attendant { taskmanager, silence }).collect())
    }
}

impl Seat {
    /// A heartbeat of this TaskManager came by the stream.
    pub(crate) fn heard(&mut self, taskmanager: TaskManagerId) {
        if self.taken_by.as_ref().is_some_and(|known| *known != taskmanager) {
            self.leave();
        }
        self.attendance.change(|streams| streams.heard.insert(taskmanager.clone(), (self.number, Instant::now())));
        self.taken_by = Some(taskmanager);
    }

    fn leave(&mut self) {
        if let Some(taskmanager) = self.taken_by.take() {
            self.attendance.change(|streams| {
                if streams.heard.get(&taskmanager).is_some_and(|(number, _)| *number == self.number) {
                    streams.heard.remove(&taskmanager);
                }
            });
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

/// Hands the leadership over, until the group of tasks stops, whenever this member has it and another one hears more
/// TaskManagers. `timeout` is the silence after which TaskManagers are given up.
pub(crate) fn spawn_watch(
    tasks: &TaskGroup,
    attendance: Attendance,
    timeout: Duration,
    role: RoleWatch,
    meta: MetaStore,
) {
    let token = tasks.token().clone();
    // Several looks between the moment at which the others are asked and the one at which a TaskManager is given up.
    let period = (timeout / 8).clamp(Duration::from_millis(1), LOOK_EVERY_MAX);
    let watching = async move {
        let started = Instant::now();
        let mut watch = Watch::new(timeout);
        loop {
            tokio::time::sleep(period).await;
            let Some(own) = own(&role, &attendance).await else { continue };
            let Some(Effect::Ask) = watch.looked(started.elapsed(), &own) else { continue };
            let others = ask_others(&meta, period).await;
            // The answers took a while, and are compared with what is heard here by now.
            let Some(own) = self::own(&role, &attendance).await else { continue };
            debug!(?own, ?others, "TaskManagers are silent, the others were asked");
            let Some(Effect::HandOver(next)) = watch.answered(started.elapsed(), &own, &others) else { continue };
            info!(to = %next, ?own, ?others, "handing over the leadership to a JobManager that hears more TaskManagers");
            if let Err(error) = meta.transfer_leader(Some(&next.0.to_string())).await {
                info!(%error, "the leadership stays here");
            }
        }
    };
    tasks.spawn("attendance", OnError::Report, async move {
        token.run_until_cancelled(watching).await;
        Ok::<(), Infallible>(())
    });
}

/// The silence of every TaskManager this member leads; `None` when it does not lead.
async fn own(role: &RoleWatch, attendance: &Attendance) -> Option<Silences> {
    let Role::Leader(leader) = role.borrow().clone() else { return None };
    let mut own = leader.resources.silences().await?;
    // One that has not registered yet is heard all the same.
    for (id, silence) in attendance.silences() {
        own.entry(id).and_modify(|own| *own = silence.min(*own));
    }
    Some(own)
}

/// What the other voters answer within `deadline`.
async fn ask_others(meta: &MetaStore, deadline: Duration) -> BTreeMap<JobManagerId, Silences> {
    let this = meta.this();
    let mut asked = JoinSet::new();
    for member in meta.members().into_iter().filter(|member| member.voter && member.id != this) {
        asked.spawn(async move {
            let channel = transport::channel(&member.address).map_err(|error| error.to_string());
            let answer = match channel {
                Ok(channel) => {
                    let client = AttendanceClient::new(channel, member.address, deadline);
                    client.attending().await.map_err(|error| error.to_string())
                }
                Err(error) => Err(error),
            };
            (member.id, answer)
        });
    }
    let mut answers = BTreeMap::new();
    while let Some(answered) = asked.join_next().await {
        match answered {
            Ok((id, Ok(all))) => {
                let silences = all.into_iter().map(|attendant| (attendant.taskmanager, attendant.silence)).collect();
                answers.insert(id, silences);
            }
            Ok((id, Err(error))) => debug!(jobmanager = %id, error, "it does not say whom it hears"),
            Err(error) => debug!(%error, "a JobManager could not be asked"),
        }
    }
    answers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(attendance: &Attendance) -> Vec<String> {
        let mut names: Vec<String> = attendance.silences().into_keys().map(|id| id.0).collect();
        names.sort();
        names
    }

    #[test]
    fn a_taskmanager_is_heard_until_its_newest_stream_ends() {
        let attendance = Attendance::default();
        let (mut old, mut new, mut other) = (attendance.seat(), attendance.seat(), attendance.seat());
        let tm = |name: &str| TaskManagerId(name.to_owned());
        old.heard(tm("a"));
        new.heard(tm("a"));
        other.heard(tm("b"));
        assert_eq!(named(&attendance), ["a", "b"]);
        drop(old);
        assert_eq!(named(&attendance), ["a", "b"], "it has another stream");
        other.heard(tm("c"));
        assert_eq!(named(&attendance), ["a", "c"], "a stream belongs to one");
        drop((new, other));
        assert!(named(&attendance).is_empty());
    }
}
