//! The group over gRPC: [`GroupServer`] offers a gateway to others, [`GroupClient`] is one.

use std::pin::Pin;
use std::time::Duration;

use tokio_stream::{Stream, StreamExt};
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use super::{
    ChangedMember, GroupError, GroupGateway, LeaderTransfer, MemberChange, Place, SnapshotBytes, SnapshotContent,
};
use crate::WireError;
use crate::artifact::CHUNK_BYTES_MAX;
use crate::dispatcher::Unavailable;
use crate::transport::{explain, malformed};
use crate::wire::pb;

/// Deadline of a call that changes nothing but who leads, and of the first message of a snapshot.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Deadline of a change of the members: a promotion copies the artifacts before.
const CHANGE_DEADLINE: Duration = Duration::from_secs(120);

/// Longest wait for the next chunk of a snapshot.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Largest message: a chunk and its frame.
const PART_BYTES_MAX: usize = CHUNK_BYTES_MAX + 1024;

/// Offers a gateway as a gRPC service.
#[derive(Debug, Clone)]
pub struct GroupServer<G> {
    gateway: G,
}

impl<G: GroupGateway> GroupServer<G> {
    /// Offers this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }

    /// Adds the service to a listener's routes.
    pub fn add_to(self, routes: &mut RoutesBuilder) {
        routes.add_service(
            pb::group_server::GroupServer::new(self)
                .max_decoding_message_size(PART_BYTES_MAX)
                .max_encoding_message_size(PART_BYTES_MAX),
        );
    }
}

#[tonic::async_trait]
impl<G: GroupGateway> pb::group_server::Group for GroupServer<G> {
    async fn transfer_leader(
        &self,
        request: Request<pb::TransferLeaderRequest>,
    ) -> Result<Response<pb::TransferLeaderResponse>, Status> {
        use pb::transfer_leader_response::Result as Answer;
        let answer = match self.gateway.transfer_leader(request.into_inner().to).await {
            Ok(transfer) => Answer::Transfer(transfer.into()),
            Err(error) => Answer::Refusal(error.into()),
        };
        Ok(Response::new(pb::TransferLeaderResponse { result: Some(answer) }))
    }

    async fn change_member(
        &self,
        request: Request<pb::ChangeMemberRequest>,
    ) -> Result<Response<pb::ChangeMemberResponse>, Status> {
        use pb::change_member_response::Result as Answer;
        let change = MemberChange::try_from(request.into_inner()).map_err(malformed)?;
        let answer = match self.gateway.change_member(change).await {
            Ok(changed) => Answer::Changed(changed.into()),
            Err(error) => Answer::Refusal(error.into()),
        };
        Ok(Response::new(pb::ChangeMemberResponse { result: Some(answer) }))
    }

    async fn find_place(
        &self,
        request: Request<pb::FindPlaceRequest>,
    ) -> Result<Response<pb::FindPlaceResponse>, Status> {
        use pb::find_place_response::{NotAdded, Result as Answer};
        let answer = match self.gateway.find_place(request.into_inner().name).await {
            Ok(Some(place)) => Answer::Place(place.into()),
            Ok(None) => Answer::NotAdded(NotAdded {}),
            Err(error) => Answer::Refusal(error.into()),
        };
        Ok(Response::new(pb::FindPlaceResponse { result: Some(answer) }))
    }

    type SaveSnapshotStream = Pin<Box<dyn Stream<Item = Result<pb::SaveSnapshotResponse, Status>> + Send>>;

    async fn save_snapshot(
        &self,
        _: Request<pb::SaveSnapshotRequest>,
    ) -> Result<Response<Self::SaveSnapshotStream>, Status> {
        use pb::save_snapshot_response::{Header, Part};
        let part = |part| pb::SaveSnapshotResponse { part: Some(part) };
        Ok(Response::new(match self.gateway.save_snapshot().await {
            Ok(SnapshotContent { size, bytes }) => {
                let chunks = bytes.map(move |chunk| match chunk {
                    Ok(chunk) => Ok(part(Part::Chunk(chunk))),
                    Err(error) => Err(Status::data_loss(error.to_string())),
                });
                Box::pin(tokio_stream::once(Ok(part(Part::Header(Header { bytes: size })))).chain(chunks))
            }
            Err(error) => Box::pin(tokio_stream::once(Ok(part(Part::Refusal(error.into()))))),
        }))
    }
}

/// The group as one JobManager offers it. Connects when first used and again after a loss.
#[derive(Debug, Clone)]
pub struct GroupClient {
    client: pb::group_client::GroupClient<Channel>,
    endpoint: String,
}

impl GroupClient {
    /// A client of the JobManager behind `channel`; `endpoint` names it in errors.
    pub fn new(channel: Channel, endpoint: impl Into<String>) -> Self {
        let client = pb::group_client::GroupClient::new(channel)
            .max_decoding_message_size(PART_BYTES_MAX)
            .max_encoding_message_size(PART_BYTES_MAX);
        Self { client, endpoint: endpoint.into() }
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> Unavailable {
        Unavailable::Unreachable { reason: format!("{}: {reason}", self.endpoint) }
    }

    fn not_understood(&self, error: WireError) -> GroupError {
        self.unreachable(error).into()
    }

    fn refusal(&self, refusal: pb::GroupRefusal) -> GroupError {
        refusal.try_into().unwrap_or_else(|error| self.not_understood(error))
    }

    /// Waits for an answer within the deadline.
    async fn answer<T>(
        &self,
        deadline: Duration,
        call: impl Future<Output = Result<T, Status>> + Send,
    ) -> Result<T, Unavailable> {
        match tokio::time::timeout(deadline, call).await {
            Ok(Ok(response)) => Ok(response),
            Ok(Err(status)) => Err(self.unreachable(explain(&status))),
            Err(_) => Err(self.unreachable(format_args!("no answer within {} s", deadline.as_secs()))),
        }
    }
}

impl GroupGateway for GroupClient {
    async fn transfer_leader(&self, to: Option<String>) -> Result<LeaderTransfer, GroupError> {
        use pb::transfer_leader_response::Result as Answer;
        let mut client = self.client.clone();
        let call = client.transfer_leader(pb::TransferLeaderRequest { to });
        match self.answer(CALL_DEADLINE, call).await?.into_inner().result {
            Some(Answer::Transfer(transfer)) => transfer.try_into().map_err(|error| self.not_understood(error)),
            Some(Answer::Refusal(refusal)) => Err(self.refusal(refusal)),
            None => Err(self.not_understood(WireError::missing("transfer_leader.result"))),
        }
    }

    async fn change_member(&self, change: MemberChange) -> Result<ChangedMember, GroupError> {
        use pb::change_member_response::Result as Answer;
        let mut client = self.client.clone();
        let call = client.change_member(pb::ChangeMemberRequest::from(change));
        match self.answer(CHANGE_DEADLINE, call).await?.into_inner().result {
            Some(Answer::Changed(changed)) => changed.try_into().map_err(|error| self.not_understood(error)),
            Some(Answer::Refusal(refusal)) => Err(self.refusal(refusal)),
            None => Err(self.not_understood(WireError::missing("change_member.result"))),
        }
    }

    async fn find_place(&self, name: String) -> Result<Option<Place>, GroupError> {
        use pb::find_place_response::Result as Answer;
        let mut client = self.client.clone();
        let call = client.find_place(pb::FindPlaceRequest { name });
        match self.answer(CALL_DEADLINE, call).await?.into_inner().result {
            Some(Answer::Place(place)) => place.try_into().map(Some).map_err(|error| self.not_understood(error)),
            Some(Answer::NotAdded(_)) => Ok(None),
            Some(Answer::Refusal(refusal)) => Err(self.refusal(refusal)),
            None => Err(self.not_understood(WireError::missing("find_place.result"))),
        }
    }

    async fn save_snapshot(&self) -> Result<SnapshotContent, GroupError> {
        use pb::save_snapshot_response::Part;
        let mut client = self.client.clone();
        let call = client.save_snapshot(pb::SaveSnapshotRequest {});
        let mut parts = self.answer(CALL_DEADLINE, call).await?.into_inner();
        let first = self.answer(CALL_DEADLINE, parts.message()).await?;
        match first.and_then(|message| message.part) {
            Some(Part::Header(header)) => {
                let bytes: SnapshotBytes = Box::pin(parts.timeout(CHUNK_DEADLINE).map(|part| match part {
                    Ok(Ok(pb::SaveSnapshotResponse { part: Some(Part::Chunk(chunk)) })) => Ok(chunk),
                    Ok(Ok(_)) => Err(std::io::Error::other(WireError::missing("save_snapshot.chunk"))),
                    Ok(Err(status)) => Err(std::io::Error::other(explain(&status))),
                    Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
                }));
                Ok(SnapshotContent { size: header.bytes, bytes })
            }
            Some(Part::Refusal(refusal)) => Err(self.refusal(refusal)),
            Some(Part::Chunk(_)) | None => Err(self.not_understood(WireError::missing("save_snapshot.header"))),
        }
    }
}
