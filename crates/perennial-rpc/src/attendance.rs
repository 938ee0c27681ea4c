//! Which TaskManagers a JobManager hears: asked by the leader before it gives one up, of the JobManagers that do not lead.
//!
//! TaskManagers keep a stream to every JobManager and say on each that they live. So a TaskManager that is silent here and
//! heard there is well, and it is the way between that is broken.

use std::time::Duration;

use perennial_types::TaskManagerId;
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::WireError;
use crate::dispatcher::Unavailable;
use crate::transport::explain;
use crate::wire::pb;

/// A TaskManager with a stream to the JobManager that was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attendant {
    /// Who it is.
    pub taskmanager: TaskManagerId,
    /// Since its last heartbeat.
    pub silence: Duration,
}

/// Asks one JobManager whom it hears.
pub trait AttendanceGateway: Clone + Send + Sync + 'static {
    /// Every TaskManager with a stream to it, once, whether or not it leads.
    fn attending(&self) -> impl Future<Output = Result<Vec<Attendant>, Unavailable>> + Send;
}

/// Offers a gateway as a gRPC service.
#[derive(Debug, Clone)]
pub struct AttendanceServer<G> {
    gateway: G,
}

impl<G: AttendanceGateway> AttendanceServer<G> {
    /// Offers this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }

    /// Adds the service to a listener's routes.
    pub fn add_to(self, routes: &mut RoutesBuilder) {
        routes.add_service(pb::attendance_server::AttendanceServer::new(self));
    }
}

#[tonic::async_trait]
impl<G: AttendanceGateway> pb::attendance_server::Attendance for AttendanceServer<G> {
    async fn attending(&self, _: Request<pb::AttendingRequest>) -> Result<Response<pb::AttendingResponse>, Status> {
        match self.gateway.attending().await {
            Ok(all) => {
                let attendants = all.into_iter().map(Into::into).collect();
                Ok(Response::new(pb::AttendingResponse { attendants }))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }
}

/// One JobManager, asked over gRPC. Connects when first used and again after a loss.
#[derive(Debug, Clone)]
pub struct AttendanceClient {
    client: pb::attendance_client::AttendanceClient<Channel>,
    endpoint: String,
    deadline: Duration,
}

impl AttendanceClient {
    /// A client of the JobManager behind `channel` that waits so long for an answer; `endpoint` names it in errors.
    pub fn new(channel: Channel, endpoint: impl Into<String>, deadline: Duration) -> Self {
        let client = pb::attendance_client::AttendanceClient::new(channel);
        Self { client, endpoint: endpoint.into(), deadline }
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> Unavailable {
        Unavailable::Unreachable { reason: format!("{}: {reason}", self.endpoint) }
    }
}

impl AttendanceGateway for AttendanceClient {
    async fn attending(&self) -> Result<Vec<Attendant>, Unavailable> {
        let mut client = self.client.clone();
        let call = client.attending(pb::AttendingRequest {});
        match tokio::time::timeout(self.deadline, call).await {
            Ok(Ok(response)) => {
                let all = response.into_inner().attendants.into_iter().map(TryInto::try_into);
                all.collect::<Result<_, WireError>>().map_err(|error| self.unreachable(error))
            }
            Ok(Err(status)) => Err(self.unreachable(explain(&status))),
            Err(_) => Err(self.unreachable(format_args!("no answer within {} ms", self.deadline.as_millis()))),
        }
    }
}

impl From<Attendant> for pb::Attendant {
    fn from(attendant: Attendant) -> Self {
        let silence_ms = u64::try_from(attendant.silence.as_millis()).unwrap_or(u64::MAX);
        Self { taskmanager: attendant.taskmanager.0, silence_ms }
    }
}

impl TryFrom<pb::Attendant> for Attendant {
    type Error = WireError;

    fn try_from(attendant: pb::Attendant) -> Result<Self, WireError> {
        let pb::Attendant { taskmanager, silence_ms } = attendant;
        if taskmanager.is_empty() {
            return Err(WireError::missing("attendant.taskmanager"));
        }
        Ok(Self { taskmanager: TaskManagerId(taskmanager), silence: Duration::from_millis(silence_ms) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attendants_come_back_as_they_were_and_need_a_name() {
        let one = Attendant { taskmanager: TaskManagerId("tm-1".to_owned()), silence: Duration::from_millis(7) };
        assert_eq!(Attendant::try_from(pb::Attendant::from(one.clone())), Ok(one));
        assert_eq!(Attendant::try_from(pb::Attendant::default()).unwrap_err().field, "attendant.taskmanager");
    }
}
