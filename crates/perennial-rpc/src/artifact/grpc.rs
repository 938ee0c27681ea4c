//! The artifact store over gRPC: [`ArtifactServer`] offers a gateway to others, [`ArtifactClient`] is one.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use perennial_types::ArtifactDigest;
use tokio_stream::{Stream, StreamExt};
use tonic::service::RoutesBuilder;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};

use super::{
    ArtifactBytes, ArtifactContent, ArtifactGateway, CHUNK_BYTES_MAX, GetArtifactError, PutArtifact, PutArtifactError,
    PutScope,
};
use crate::WireError;
use crate::dispatcher::Unavailable;
use crate::transport::{explain, malformed};
use crate::wire::{id, pb};

/// Deadline of a call that carries no bytes, and of the first message of one that does.
const CALL_DEADLINE: Duration = Duration::from_secs(10);

/// Deadline of an upload as a whole: 256 MiB at 1 MiB/s, with the copies to other JobManagers.
const PUT_DEADLINE: Duration = Duration::from_secs(300);

/// Longest wait for the next chunk of a download.
const CHUNK_DEADLINE: Duration = Duration::from_secs(10);

/// Largest message: a chunk and its frame.
const PART_BYTES_MAX: usize = CHUNK_BYTES_MAX + 1024;

/// Offers a gateway as a gRPC service.
#[derive(Debug, Clone)]
pub struct ArtifactServer<G> {
    gateway: G,
}

impl<G: ArtifactGateway> ArtifactServer<G> {
    /// Offers this gateway.
    pub fn new(gateway: G) -> Self {
        Self { gateway }
    }

    /// Adds the service to a listener's routes.
    pub fn add_to(self, routes: &mut RoutesBuilder) {
        routes.add_service(
            pb::artifacts_server::ArtifactsServer::new(self)
                .max_decoding_message_size(PART_BYTES_MAX)
                .max_encoding_message_size(PART_BYTES_MAX),
        );
    }
}

/// What became of an upload, as the wire says it.
fn put_answer(result: Result<(), PutArtifactError>) -> pb::PutArtifactResponse {
    use pb::put_artifact_response::{Done, Result as Answer, TooLarge, WrongTarget};
    let answer = match result {
        Ok(()) => Answer::Done(Done {}),
        Err(PutArtifactError::DigestMismatch { actual }) => {
            Answer::DigestMismatch(Bytes::copy_from_slice(actual.as_bytes()))
        }
        Err(PutArtifactError::TooLarge { size, limit }) => Answer::TooLarge(TooLarge { size, limit }),
        Err(PutArtifactError::NotAnArtifact { reason }) => Answer::NotAnArtifact(reason),
        Err(PutArtifactError::WrongTarget { artifact, cluster }) => {
            Answer::WrongTarget(WrongTarget { artifact, cluster })
        }
        Err(PutArtifactError::Unavailable(error)) => Answer::Unavailable(error.into()),
    };
    pb::PutArtifactResponse { result: Some(answer) }
}

fn read_put_answer(response: pb::PutArtifactResponse) -> Result<Result<(), PutArtifactError>, WireError> {
    use pb::put_artifact_response::Result as Answer;
    Ok(match response.result.ok_or(WireError::missing("put_artifact.result"))? {
        Answer::Done(_) => Ok(()),
        Answer::DigestMismatch(actual) => {
            Err(PutArtifactError::DigestMismatch { actual: id(&actual, "put_artifact.result.digest_mismatch")? })
        }
        Answer::TooLarge(it) => Err(PutArtifactError::TooLarge { size: it.size, limit: it.limit }),
        Answer::NotAnArtifact(reason) => Err(PutArtifactError::NotAnArtifact { reason }),
        Answer::WrongTarget(it) => Err(PutArtifactError::WrongTarget { artifact: it.artifact, cluster: it.cluster }),
        Answer::Unavailable(error) => Err(Unavailable::try_from(error)?.into()),
    })
}

fn read_header(header: pb::put_artifact_request::Header) -> Result<PutArtifact, WireError> {
    let scope = match pb::PutScope::try_from(header.scope) {
        Ok(pb::PutScope::Replicated) => PutScope::Replicated,
        Ok(pb::PutScope::LocalOnly) => PutScope::LocalOnly,
        Ok(pb::PutScope::Unspecified) | Err(_) => return Err(WireError::missing("put_artifact.header.scope")),
    };
    let digest = id(&header.digest, "put_artifact.header.digest")?;
    Ok(PutArtifact { digest, name: header.name, size: header.size, scope })
}

fn header(artifact: PutArtifact) -> pb::PutArtifactRequest {
    let scope = match artifact.scope {
        PutScope::Replicated => pb::PutScope::Replicated,
        PutScope::LocalOnly => pb::PutScope::LocalOnly,
    };
    pb::PutArtifactRequest {
        part: Some(pb::put_artifact_request::Part::Header(pb::put_artifact_request::Header {
            digest: Bytes::copy_from_slice(artifact.digest.as_bytes()),
            name: artifact.name,
            size: artifact.size,
            scope: scope.into(),
        })),
    }
}

#[tonic::async_trait]
impl<G: ArtifactGateway> pb::artifacts_server::Artifacts for ArtifactServer<G> {
    async fn has_artifact(
        &self,
        request: Request<pb::HasArtifactRequest>,
    ) -> Result<Response<pb::HasArtifactResponse>, Status> {
        use pb::has_artifact_response::Result as Answer;
        let digest = id(&request.into_inner().digest, "has_artifact.digest").map_err(malformed)?;
        let answer = match self.gateway.has(digest).await {
            Ok(present) => Answer::Present(present),
            Err(error) => Answer::Unavailable(error.into()),
        };
        Ok(Response::new(pb::HasArtifactResponse { result: Some(answer) }))
    }

    async fn put_artifact(
        &self,
        request: Request<Streaming<pb::PutArtifactRequest>>,
    ) -> Result<Response<pb::PutArtifactResponse>, Status> {
        use pb::put_artifact_request::Part;
        let mut parts = request.into_inner();
        let Some(pb::PutArtifactRequest { part: Some(Part::Header(header)) }) = parts.message().await? else {
            return Err(malformed(WireError::missing("put_artifact.header")));
        };
        let artifact = read_header(header).map_err(malformed)?;
        let chunks = parts.map(|part| match part {
            Ok(pb::PutArtifactRequest { part: Some(Part::Chunk(chunk)) }) => Ok(chunk),
            Ok(_) => Err(std::io::Error::other(WireError::missing("put_artifact.chunk"))),
            Err(status) => Err(std::io::Error::other(explain(&status))),
        });
        Ok(Response::new(put_answer(self.gateway.put(artifact, Box::pin(chunks)).await)))
    }

    type GetArtifactStream = Pin<Box<dyn Stream<Item = Result<pb::GetArtifactResponse, Status>> + Send>>;

    async fn get_artifact(
        &self,
        request: Request<pb::GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        use pb::get_artifact_response::{Header, NotFound, Part};
        let digest = id(&request.into_inner().digest, "get_artifact.digest").map_err(malformed)?;
        let part = |part| pb::GetArtifactResponse { part: Some(part) };
        Ok(Response::new(match self.gateway.get(digest).await {
            Ok(content) => {
                let header = part(Part::Header(Header { name: content.name, size: content.size }));
                let chunks = content.bytes.map(move |chunk| match chunk {
                    Ok(chunk) => Ok(part(Part::Chunk(chunk))),
                    Err(error) => Err(Status::data_loss(error.to_string())),
                });
                Box::pin(tokio_stream::once(Ok(header)).chain(chunks))
            }
            Err(GetArtifactError::NotFound { .. }) => {
                Box::pin(tokio_stream::once(Ok(part(Part::NotFound(NotFound {})))))
            }
            Err(GetArtifactError::Unavailable(error)) => {
                Box::pin(tokio_stream::once(Ok(part(Part::Unavailable(error.into())))))
            }
        }))
    }
}

/// The artifact store as one JobManager offers it. Connects when first used and again after a loss.
#[derive(Debug, Clone)]
pub struct ArtifactClient {
    client: pb::artifacts_client::ArtifactsClient<Channel>,
    endpoint: String,
}

impl ArtifactClient {
    /// A client of the JobManager behind `channel`; `endpoint` names it in errors.
    pub fn new(channel: Channel, endpoint: impl Into<String>) -> Self {
        let client = pb::artifacts_client::ArtifactsClient::new(channel)
            .max_decoding_message_size(PART_BYTES_MAX)
            .max_encoding_message_size(PART_BYTES_MAX);
        Self { client, endpoint: endpoint.into() }
    }

    fn unreachable(&self, reason: impl std::fmt::Display) -> Unavailable {
        Unavailable::Unreachable { reason: format!("{}: {reason}", self.endpoint) }
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

/// The messages of an upload: the header, then the bytes.
///
/// An error while reading the bytes ends the stream early; the other side then finds too few of them.
struct PutParts {
    header: Option<pb::PutArtifactRequest>,
    bytes: ArtifactBytes,
}

impl Stream for PutParts {
    type Item = pb::PutArtifactRequest;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(header) = self.header.take() {
            return Poll::Ready(Some(header));
        }
        let chunk = ready!(self.bytes.as_mut().poll_next(context)).and_then(Result::ok);
        Poll::Ready(
            chunk.map(|chunk| pb::PutArtifactRequest { part: Some(pb::put_artifact_request::Part::Chunk(chunk)) }),
        )
    }
}

impl ArtifactGateway for ArtifactClient {
    async fn has(&self, digest: ArtifactDigest) -> Result<bool, Unavailable> {
        use pb::has_artifact_response::Result as Answer;
        let mut client = self.client.clone();
        let request = pb::HasArtifactRequest { digest: Bytes::copy_from_slice(digest.as_bytes()) };
        match self.answer(CALL_DEADLINE, client.has_artifact(request)).await?.into_inner().result {
            Some(Answer::Present(present)) => Ok(present),
            Some(Answer::Unavailable(error)) => Err(error.try_into().unwrap_or_else(|error| self.unreachable(error))),
            None => Err(self.unreachable(WireError::missing("has_artifact.result"))),
        }
    }

    async fn put(&self, artifact: PutArtifact, bytes: ArtifactBytes) -> Result<(), PutArtifactError> {
        let mut client = self.client.clone();
        let parts = PutParts { header: Some(header(artifact)), bytes };
        let response = self.answer(PUT_DEADLINE, client.put_artifact(parts)).await?;
        read_put_answer(response.into_inner()).map_err(|error| self.unreachable(error))?
    }

    async fn get(&self, digest: ArtifactDigest) -> Result<ArtifactContent, GetArtifactError> {
        use pb::get_artifact_response::Part;
        let mut client = self.client.clone();
        let request = pb::GetArtifactRequest { digest: Bytes::copy_from_slice(digest.as_bytes()) };
        let mut parts = self.answer(CALL_DEADLINE, client.get_artifact(request)).await?.into_inner();
        let first = self.answer(CALL_DEADLINE, parts.message()).await?;
        match first.and_then(|message| message.part) {
            Some(Part::Header(header)) => Ok(ArtifactContent {
                name: header.name,
                size: header.size,
                bytes: Box::pin(parts.timeout(CHUNK_DEADLINE).map(|part| match part {
                    Ok(Ok(pb::GetArtifactResponse { part: Some(Part::Chunk(chunk)) })) => Ok(chunk),
                    Ok(Ok(_)) => Err(std::io::Error::other(WireError::missing("get_artifact.chunk"))),
                    Ok(Err(status)) => Err(std::io::Error::other(explain(&status))),
                    Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
                })),
            }),
            Some(Part::NotFound(_)) => Err(GetArtifactError::NotFound { digest }),
            Some(Part::Unavailable(error)) => {
                let error: Unavailable = error.try_into().unwrap_or_else(|error| self.unreachable(error));
                Err(error.into())
            }
            Some(Part::Chunk(_)) | None => Err(self.unreachable(WireError::missing("get_artifact.header")).into()),
        }
    }
}
