//! The TaskManager conversation over the wire.

use proptest::prelude::*;
use prost::Message;

use super::arbitrary::{from_taskmanager, to_taskmanager};
use super::{FromTaskManager, ToTaskManager};
use crate::WireError;
use crate::wire::pb;

fn through<T, W>(message: T) -> Result<T, WireError>
where
    W: Message + Default + From<T>,
    T: TryFrom<W, Error = WireError>,
{
    T::try_from(W::decode(W::from(message).encode_to_vec().as_slice()).unwrap())
}

proptest! {
    #[test]
    fn every_message_of_a_taskmanager_round_trips(message in from_taskmanager()) {
        prop_assert_eq!(through::<_, pb::TaskManagerMessage>(message.clone()), Ok(message));
    }

    #[test]
    fn every_message_to_a_taskmanager_round_trips(message in to_taskmanager()) {
        prop_assert_eq!(through::<_, pb::JobManagerMessage>(message.clone()), Ok(message));
    }

    /// A message with a byte changed is another message or refused; nothing panics.
    #[test]
    fn damaged_messages_are_harmless(message in to_taskmanager(), at in any::<prop::sample::Index>(), flip in 1..=255u8) {
        let mut bytes = pb::JobManagerMessage::from(message).encode_to_vec();
        let at = at.index(bytes.len().max(1));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= flip;
        }
        if let Ok(message) = pb::JobManagerMessage::decode(bytes.as_slice()) {
            drop(ToTaskManager::try_from(message));
        }
    }
}

#[test]
fn refusals_name_the_field() {
    use pb::task_manager_message::Message as From;
    let from = |message| FromTaskManager::try_from(pb::TaskManagerMessage { message }).unwrap_err().to_string();
    let registration = || pb::Registration {
        id: "tm".to_owned(),
        incarnation: vec![0; 16].into(),
        host: "h".to_owned(),
        slots: 1,
        ..Default::default()
    };
    assert_eq!(from(None), "malformed message: `message` is missing");
    let text = from(Some(From::Register(pb::Registration { slots: 0, ..registration() })));
    assert!(text.contains("`register.slots`"), "{text}");
    let text = from(Some(From::Register(pb::Registration { id: String::new(), ..registration() })));
    assert_eq!(text, "malformed message: `register.id` is missing");
    let text = from(Some(From::Register(pb::Registration { cluster: Some(vec![0; 15].into()), ..registration() })));
    assert!(text.contains("`register.cluster`") && text.contains("15 bytes"), "{text}");
    let report = pb::ExecutionReport { job: vec![0; 16].into(), ..Default::default() };
    let text = from(Some(From::Execution(report)));
    assert_eq!(text, "malformed message: `execution.attempt` is missing");

    let deploy = pb::Deploy {
        placement: vec![pb::TaskPlacement {
            attempt: Some(pb::ExecutionAttemptId { vertex: vec![0; 16].into(), subtask: 0, attempt: 0 }),
            executor: 2,
        }],
        executors: vec![pb::ExecutorAddress::default()],
        ..Default::default()
    };
    let error = super::Deploy::try_from(deploy).unwrap_err();
    assert_eq!(error.to_string(), "malformed message: `deploy.placement.executor` is not valid: 2 of 1 executors");
}

#[cfg(feature = "grpc")]
mod gateway {
    use std::net::SocketAddr;
    use std::time::Duration;

    use perennial_types::{ClusterId, JobManagerId, LeaderEpoch};
    use tokio::sync::mpsc;

    use super::super::{
        AttachError, FromTaskManager, Incoming, Leadership, TaskManagerGateway, TaskManagerServer, ToTaskManager,
        attach,
    };

    /// Hands every stream to the test.
    #[derive(Clone)]
    struct Desk {
        streams: mpsc::UnboundedSender<(Incoming<FromTaskManager>, mpsc::Sender<ToTaskManager>)>,
    }

    impl TaskManagerGateway for Desk {
        fn attach(&self, peer: Option<SocketAddr>, from: Incoming<FromTaskManager>) -> mpsc::Receiver<ToTaskManager> {
            assert!(peer.is_some_and(|peer| peer.ip().is_loopback()));
            let (to, answers) = mpsc::channel(4);
            self.streams.send((from, to)).unwrap();
            answers
        }
    }

    async fn serve() -> (String, mpsc::UnboundedReceiver<(Incoming<FromTaskManager>, mpsc::Sender<ToTaskManager>)>) {
        let (streams, attached) = mpsc::unbounded_channel();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let mut routes = tonic::service::RoutesBuilder::default();
        TaskManagerServer::new(Desk { streams }).add_to(&mut routes);
        let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
        let server = tonic::transport::Server::builder().add_routes(routes.routes()).serve_with_incoming(incoming);
        tokio::spawn(server);
        (address, attached)
    }

    #[tokio::test]
    async fn both_sides_hear_each_other_and_the_end() {
        let (address, mut attached) = serve().await;
        let (to, mut from) = attach(&address).await.unwrap();
        let (mut heard, tell) = attached.recv().await.unwrap();
        let leadership = ToTaskManager::Leadership(Leadership {
            cluster: Some(ClusterId::from_bytes([1; 16])),
            from: JobManagerId(1),
            epoch: LeaderEpoch(2),
            leader: None,
            leader_address: String::new(),
            jobmanagers: vec!["h:1".to_owned()],
        });
        tell.send(leadership.clone()).await.unwrap();
        assert_eq!(from.next().await, Some(Ok(leadership)));
        to.send(FromTaskManager::Heartbeat { from: None, stale_commands: 3 }).await.unwrap();
        assert_eq!(heard.next().await, Some(Ok(FromTaskManager::Heartbeat { from: None, stale_commands: 3 })));
        drop(to);
        assert_eq!(heard.next().await, None);
        drop(tell);
        assert_eq!(from.next().await, None);
    }

    #[tokio::test]
    async fn a_taskmanager_that_vanishes_is_noticed() {
        let (address, mut attached) = serve().await;
        let (to, from) = attach(&address).await.unwrap();
        let (mut heard, _tell) = attached.recv().await.unwrap();
        drop((to, from));
        let end = tokio::time::timeout(Duration::from_secs(10), heard.next()).await.unwrap();
        assert!(!matches!(end, Some(Ok(_))), "{end:?}");
    }

    #[tokio::test]
    async fn an_address_where_nobody_listens_is_named_with_the_cause() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
        let Err(AttachError::Unreachable { address, reason }) = attach(&free).await else { panic!("attached") };
        assert_eq!(address, free);
        assert!(reason.to_lowercase().contains("connection refused"), "{reason}");
        assert!(matches!(attach("no address").await, Err(AttachError::Unreachable { .. })));
    }
}
