//! A leader that is heard, and hears nothing.

use std::collections::BTreeMap;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Group, eventually};

/// What a link lets pass.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Passes {
    All,
    /// What comes from the end that connects.
    There,
    /// What goes to that end.
    Back,
}

/// The way from one member to another. What does not pass is held, as by a network that loses it and a TCP that sends it again.
struct Link {
    passes: watch::Sender<Passes>,
    front: String,
}

impl Link {
    async fn start(back: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let front = listener.local_addr().unwrap().to_string();
        let (passes, passing) = watch::channel(Passes::All);
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let (back, passing) = (back.clone(), passing.clone());
                tokio::spawn(async move {
                    let Ok(far) = TcpStream::connect(back).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    let ((near_in, near_out), (far_in, far_out)) = (near.into_split(), far.into_split());
                    tokio::select! {
                        () = pass(near_in, far_out, passing.clone(), Passes::Back) => {}
                        () = pass(far_in, near_out, passing, Passes::There) => {}
                    }
                });
            }
        });
        Self { passes, front }
    }
}

/// Passes on what comes, but holds it while only the other way is open.
async fn pass(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut passing: watch::Receiver<Passes>, other: Passes) {
    let mut bytes = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut bytes).await {
        let passes = passing.wait_for(|passes| *passes != other).await.is_ok();
        if !passes || to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}

/// What it says kept the others from electing for as long as its connections lasted, and those it made anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_hears_nothing_is_replaced() {
    let mut group = Group::new(3).await;
    let mut links = BTreeMap::new();
    for from in 0..3 {
        for to in (0..3).filter(|to| *to != from) {
            let link = Link::start(group.address(to)).await;
            group.reaches_at(from, to, link.front.clone());
            links.insert((from, to), link);
        }
    }
    group.start_all().await;
    group.write(1).await;
    let deaf = group.leader().await;
    let epoch = group.store(deaf).leadership().borrow().epoch;
    for ((from, to), link) in &links {
        if *from == deaf {
            link.passes.send_replace(Passes::There);
        } else if *to == deaf {
            link.passes.send_replace(Passes::Back);
        }
    }
    let next = eventually("another member serves", async || {
        let serves = |n: &usize| *n != deaf && group.store(*n).leadership().borrow().serving.is_some();
        group.running().find(serves)
    })
    .await;
    assert!(group.store(next).leadership().borrow().epoch > epoch);
    assert_eq!(group.store(deaf).leadership().borrow().serving, None);
    for link in links.values() {
        link.passes.send_replace(Passes::All);
    }
    group.write(2).await;
    group.await_artifact(deaf, 2).await;
}
