//! The executor conversation over a byte stream.

use std::io::Cursor;

use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::taskmanager::arbitrary::{
    attempt, checkpoint, command_error, deploy, execution, fence, job, notify, progress, trigger,
};

fn from_executor() -> impl Strategy<Value = FromExecutor> {
    let who = (any::<u32>(), job(), any::<u32>(), any::<u16>(), fence());
    let hello = (who, vec(execution(), 0..4), any::<u64>()).prop_map(
        |((protocol, job, pid, data_port, fence), executions, stale_commands)| Hello {
            protocol,
            job,
            pid,
            data_port,
            fence,
            executions,
            stale_commands,
        },
    );
    let result = prop_oneof![Just(Ok(())), command_error().prop_map(Err)];
    prop_oneof![
        hello.prop_map(FromExecutor::Hello),
        (any::<u64>(), result).prop_map(|(id, result)| FromExecutor::Answer { id, result }),
        execution().prop_map(FromExecutor::Execution),
        vec(progress(), 0..4).prop_map(FromExecutor::Progress),
        checkpoint().prop_map(FromExecutor::Checkpoint),
    ]
}

fn to_executor() -> impl Strategy<Value = ToExecutor> {
    let action = prop_oneof![
        deploy().prop_map(ExecutorAction::Deploy),
        vec(attempt(), 0..4).prop_map(|attempts| ExecutorAction::Cancel { attempts }),
        Just(ExecutorAction::Stop),
        Just(ExecutorAction::Heartbeat),
        trigger().prop_map(ExecutorAction::TriggerCheckpoint),
        notify().prop_map(ExecutorAction::NotifyCheckpoint),
    ];
    (fence(), any::<u64>(), action).prop_map(|(fence, id, action)| ToExecutor { fence, id, action })
}

proptest! {
    #[test]
    fn messages_of_an_executor_arrive_in_order_until_the_end(messages in vec(from_executor(), 0..5)) {
        let mut bytes = Vec::new();
        for message in &messages {
            write_from_executor(&mut bytes, message).unwrap();
        }
        let mut stream = Cursor::new(&bytes);
        for message in &messages {
            prop_assert_eq!(&read_from_executor(&mut stream).unwrap(), message);
        }
        prop_assert!(matches!(read_from_executor(&mut stream), Err(ReadError::Closed)));
    }

    #[test]
    fn messages_to_an_executor_round_trip(message in to_executor()) {
        let mut bytes = Vec::new();
        write_to_executor(&mut bytes, &message).unwrap();
        prop_assert_eq!(read_to_executor(&mut Cursor::new(&bytes)).unwrap(), message);
    }

    #[test]
    fn a_message_cut_short_is_an_error(message in to_executor(), cut in any::<prop::sample::Index>()) {
        let mut bytes = Vec::new();
        write_to_executor(&mut bytes, &message).unwrap();
        let cut = cut.index(bytes.len());
        bytes.truncate(cut);
        let read = read_to_executor(&mut Cursor::new(&bytes));
        prop_assert!(matches!(read, Err(ReadError::Closed)) == (cut == 0));
        prop_assert!(read.is_err());
    }

    #[test]
    fn garbage_is_refused_or_read_but_harmless(bytes in vec(any::<u8>(), 0..200)) {
        drop(read_to_executor(&mut Cursor::new(&bytes)));
        drop(read_from_executor(&mut Cursor::new(&bytes)));
    }
}

#[test]
fn a_length_beyond_the_limit_is_refused_before_anything_is_read() {
    let mut bytes = (MESSAGE_BYTES_MAX as u32 + 1).to_le_bytes().to_vec();
    bytes.extend([0; 64]);
    let error = read_to_executor(&mut Cursor::new(&bytes)).unwrap_err();
    assert!(error.to_string().starts_with("malformed message: `length` is not valid: 67108865 bytes"), "{error}");
}

#[test]
fn refusals_name_the_field() {
    use prost::Message;
    let hello = crate::wire::pb::ExecutorHello { job: vec![0; 16].into(), data_port: 65_536, ..Default::default() };
    let message = crate::wire::pb::executor_message::Message::Hello(hello);
    let bytes = crate::wire::pb::ExecutorMessage { message: Some(message) }.encode_to_vec();
    let mut framed = (bytes.len() as u32).to_le_bytes().to_vec();
    framed.extend(bytes);
    let error = read_from_executor(&mut Cursor::new(&framed)).unwrap_err();
    assert_eq!(error.to_string(), "malformed message: `hello.data_port` is not valid: 65536 is no port");
}

#[cfg(feature = "grpc")]
#[tokio::test]
async fn both_runtimes_speak_the_same() {
    let (mut ours, theirs) = tokio::net::UnixStream::pair().unwrap();
    let theirs = theirs.into_std().unwrap();
    theirs.set_nonblocking(false).unwrap();
    let executor = std::thread::spawn(move || {
        let mut stream = theirs;
        let command = read_to_executor(&mut stream).unwrap();
        write_from_executor(&mut stream, &FromExecutor::Answer { id: command.id, result: Ok(()) }).unwrap();
    });
    let fence = perennial_types::Fence::default();
    send_to_executor(&mut ours, ToExecutor { fence, id: 7, action: ExecutorAction::Stop }).await.unwrap();
    let answer = receive_from_executor(&mut ours).await.unwrap();
    assert_eq!(answer, FromExecutor::Answer { id: 7, result: Ok(()) });
    assert!(matches!(receive_from_executor(&mut ours).await, Err(ReadError::Closed)));
    executor.join().unwrap();
}
