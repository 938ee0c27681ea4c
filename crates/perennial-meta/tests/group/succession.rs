//! Leaders that are gone, and leaders that are not.
//!
//! Where the detector is to be seen at work, timers are so long that they cannot be what elects.

use std::sync::Arc;

use perennial_meta::LeadershipView;
use perennial_types::ElectionCause;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Group, eventually};

/// Election timeouts that no test lives to see.
const NEVER_MS: (u64, u64) = (60_000, 120_000);

/// A group of one elects itself at once, and takes the others in. Founders that start together may vote for different ones of them, and
/// who would mend that is the timers.
async fn started_without_timers(count: usize) -> Group {
    let mut group = Group::new(1).await;
    group.election_timeout_ms = NEVER_MS;
    group.start_all().await;
    for _ in 1..count {
        group.take_in().await;
    }
    group
}

fn view(group: &Group, n: usize) -> LeadershipView {
    group.store(n).leadership().borrow().clone()
}

/// Waits until all that run follow a leader that serves in the same epoch. Returns leader and epoch.
async fn settled(group: &Group) -> (usize, u64) {
    eventually("all follow one leader", async || {
        let leader = group.running().find(|n| view(group, *n).serving.is_some())?;
        let epoch = view(group, leader).epoch;
        let follow = |n: usize| {
            view(group, n).epoch == epoch && view(group, n).leader.is_some_and(|l| l.id.0 == leader as u64 + 1)
        };
        group.running().all(follow).then_some((leader, epoch.0))
    })
    .await
}

/// Each time exactly one term is used up: had two survivors stood in one, it would have had no leader, and the next one
/// would have come by a timer.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_is_gone_is_succeeded_in_the_next_term_without_timers() {
    let mut group = started_without_timers(3).await;
    for kill in 0..8 {
        group.write(kill).await;
        let (leader, epoch) = settled(&group).await;
        group.kill(leader);
        let (next, next_epoch) = settled(&group).await;
        assert_eq!(next_epoch, epoch + 1);
        assert_eq!(group.store(next).beginning().map(|beginning| beginning.cause), Some(ElectionCause::ProcessGone));
        group.await_artifact(next, kill).await;
        group.start(leader).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_five_the_survivors_agree_on_one() {
    let mut group = started_without_timers(5).await;
    for kill in 0..2 {
        group.write(kill).await;
        let (leader, epoch) = settled(&group).await;
        group.kill(leader);
        let (next, next_epoch) = settled(&group).await;
        assert_eq!(next_epoch, epoch + 1);
        assert_eq!(group.store(next).beginning().map(|beginning| beginning.cause), Some(ElectionCause::ProcessGone));
    }
}

/// Nobody to forward to is better than a leader that is known to be dead.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_quorum_a_survivor_knows_of_no_leader_and_does_not_stand() {
    let mut group = started_without_timers(2).await;
    let (leader, epoch) = settled(&group).await;
    let survivor = 1 - leader;
    group.kill(leader);
    eventually("the survivor sees it", async || view(&group, survivor).leader.is_none().then_some(())).await;
    assert_eq!(view(&group, survivor).epoch.0, epoch);
    group.start(leader).await;
    eventually("the survivor still waits", async || {
        group.store(leader).leadership().borrow().leader.is_none().then_some(())
    })
    .await;
    assert_eq!(view(&group, survivor).epoch.0, epoch);
}

/// Passes connections to the leader on, and can cut them while its own port goes on listening: what a proxy, a switch or
/// an overloaded host looks like.
struct Proxy {
    cuts: watch::Sender<u64>,
}

impl Proxy {
    /// Takes the place of address `front`, and passes on to `back`.
    async fn start(front: &str, back: String) -> Self {
        let listener = TcpListener::bind(front).await.unwrap();
        let (cuts, cut) = watch::channel(0);
        let back: Arc<str> = back.into();
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let (back, mut cut) = (back.clone(), cut.clone());
                cut.borrow_and_update();
                tokio::spawn(async move {
                    let Ok(mut far) = TcpStream::connect(&*back).await else { return };
                    near.set_nodelay(true).unwrap();
                    far.set_nodelay(true).unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        Self { cuts }
    }

    fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

/// A started group whose members reach each other through proxies only, and which elects by the detector only.
async fn behind_proxies() -> (Group, Vec<Proxy>) {
    let mut group = Group::new(1).await;
    group.election_timeout_ms = NEVER_MS;
    let mut proxies = Vec::new();
    for n in 0..3 {
        if n > 0 {
            group.newcomer().await;
        }
        let (front, back) = group.behind_proxy(n).await;
        proxies.push(Proxy::start(&front, back).await);
        match n {
            0 => group.start_all().await,
            _ => group.take_in_newcomer(n).await,
        }
    }
    (group, proxies)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_connections_break_but_whose_address_still_answers_is_not_deposed() {
    let (group, proxies) = behind_proxies().await;
    let (leader, epoch) = settled(&group).await;
    for round in 0..10 {
        proxies.iter().for_each(Proxy::cut);
        group.write(round).await;
        for n in group.running() {
            group.await_artifact(n, round).await;
        }
    }
    assert_eq!(settled(&group).await, (leader, epoch));
}

/// No connection is ever refused here: it is the new process that tells that the old one is gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_leader_whose_process_was_replaced_is_gone() {
    let (mut group, _proxies) = behind_proxies().await;
    let (leader, epoch) = settled(&group).await;
    group.kill(leader);
    group.start(leader).await;
    let (next, next_epoch) = settled(&group).await;
    assert_ne!(next, leader);
    assert_eq!(next_epoch, epoch + 1);
    assert_eq!(group.store(next).beginning().map(|beginning| beginning.cause), Some(ElectionCause::ProcessGone));
}
