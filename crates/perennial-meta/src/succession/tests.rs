use proptest::prelude::*;

use super::*;

fn end(index: u64) -> LogEnd {
    LogEnd { term: 1, index }
}

fn lets(index: u64) -> GoneAnswer {
    GoneAnswer { round: 1, seen: Some(end(index)), yields: true }
}

fn sees(index: u64) -> GoneAnswer {
    GoneAnswer { round: 1, seen: Some(end(index)), yields: false }
}

fn unaware() -> GoneAnswer {
    GoneAnswer { round: 1, seen: None, yields: false }
}

fn in_round(round: u64, answer: GoneAnswer) -> GoneAnswer {
    GoneAnswer { round, ..answer }
}

/// Applies events to member `this` of a group of `count` led by the last one, and compares the effects of each.
#[track_caller]
fn check(this: u64, count: u64, table: &[(Event, &[Effect])]) {
    let mut succession = Succession::new(this, count, 1, 1..=count);
    for (row, (event, expect)) in table.iter().enumerate() {
        assert_eq!(succession.apply(*event), *expect, "row {row}: {event:?}");
    }
}

#[test]
fn the_longest_log_stands_as_soon_as_the_other_survivor_lets_it() {
    let own = end(9);
    check(
        2,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![1])]),
            (Event::Answered { from: 1, answer: lets(8), own }, &[Effect::Stand]),
            (Event::Answered { from: 1, answer: lets(8), own }, &[]),
            (Event::Turn(0), &[]),
        ],
    );
}

#[test]
fn of_equal_logs_the_lowest_number_stands_and_the_other_lets_it() {
    let own = end(9);
    check(
        2,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![1])]),
            (Event::Told { from: 1, round: 1, end: own, own }, &[Effect::Answer(lets(9))]),
            (Event::Answered { from: 1, answer: sees(9), own }, &[]),
            (Event::Turn(0), &[]),
            (Event::Turn(1), &[Effect::Stand]),
        ],
    );
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Told { from: 2, round: 1, end: own, own }, &[Effect::Answer(sees(9)), Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: lets(9), own }, &[Effect::Stand]),
        ],
    );
}

/// The other one sees it a moment later, and says so by asking itself.
#[test]
fn a_member_asks_again_when_another_sees_it_too() {
    let own = end(9);
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: GoneAnswer::UNAWARE, own }, &[]),
            (Event::Told { from: 2, round: 1, end: end(7), own }, &[Effect::Answer(sees(9)), Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: lets(7), own }, &[Effect::Stand]),
        ],
    );
}

/// A link that is broken on one side, or the only survivor of two.
#[test]
fn nobody_stands_without_a_quorum_that_sees_it() {
    let own = end(9);
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: GoneAnswer::UNAWARE, own }, &[]),
            (Event::Turn(0), &[Effect::Ask(vec![2])]),
            (Event::Turn(1), &[Effect::Ask(vec![2])]),
        ],
    );
    check(1, 2, &[(Event::Seen { own }, &[Effect::Ask(vec![])]), (Event::Turn(0), &[]), (Event::Turn(1), &[])]);
}

#[test]
fn a_member_that_sees_nothing_lets_nobody_stand() {
    let told = Event::Told { from: 2, round: 1, end: end(9), own: end(1) };
    check(1, 3, &[(told, &[Effect::Answer(unaware())]), (Event::Turn(0), &[])]);
}

#[test]
fn a_member_that_was_wrong_lets_nobody_stand_any_more() {
    let own = end(9);
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Retracted, &[]),
            (Event::Told { from: 2, round: 1, end: end(10), own }, &[Effect::Answer(unaware())]),
            (Event::Answered { from: 2, answer: lets(8), own }, &[]),
            (Event::Turn(0), &[]),
        ],
    );
}

/// Only one of five, although the second one asks with a longer log.
#[test]
fn a_member_lets_one_member_stand() {
    let own = end(5);
    check(
        3,
        5,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![1, 2, 4])]),
            (Event::Answered { from: 4, answer: sees(4), own }, &[]),
            (Event::Told { from: 2, round: 1, end: end(6), own }, &[Effect::Answer(lets(5))]),
            (Event::Told { from: 1, round: 1, end: end(7), own }, &[Effect::Answer(sees(5))]),
            (Event::Told { from: 2, round: 1, end: end(6), own }, &[Effect::Answer(sees(5))]),
        ],
    );
}

#[test]
fn strangers_learners_and_the_dead_leader_do_not_count() {
    let own = end(9);
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Told { from: 3, round: 1, end: end(9), own }, &[Effect::Answer(sees(9))]),
            (Event::Told { from: 7, round: 1, end: end(9), own }, &[Effect::Answer(sees(9))]),
            (Event::Turn(0), &[Effect::Ask(vec![2])]),
        ],
    );
    let mut learner = Succession::new(9, 3, 1, 1..=3);
    assert_eq!(learner.apply(Event::Seen { own }), []);
}

/// It failed before: who had stood never stood again, and nobody else did.
#[test]
fn an_election_that_came_to_nothing_is_followed_by_another() {
    let own = end(9);
    check(
        2,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![1])]),
            (Event::Answered { from: 1, answer: lets(8), own }, &[Effect::Stand]),
            (Event::Round(2), &[Effect::Pause]),
            (Event::Answered { from: 1, answer: lets(8), own }, &[]),
            (Event::Turn(0), &[]),
            (Event::Waited { own }, &[Effect::Ask(vec![1])]),
            (Event::Answered { from: 1, answer: in_round(2, lets(8)), own }, &[Effect::Stand]),
            (Event::Round(3), &[Effect::Pause]),
            (Event::Round(2), &[]),
        ],
    );
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Told { from: 2, round: 1, end: end(10), own }, &[Effect::Answer(lets(9))]),
            (Event::Round(2), &[Effect::Pause]),
            (Event::Told { from: 2, round: 2, end: end(10), own }, &[Effect::Answer(in_round(2, lets(9)))]),
        ],
    );
}

/// Who sees the death when others vote already would only disturb them.
#[test]
fn nobody_asks_while_an_election_may_be_under_way() {
    let own = end(9);
    check(
        1,
        3,
        &[
            (Event::Round(2), &[Effect::Pause]),
            (Event::Seen { own }, &[]),
            (Event::Turn(0), &[]),
            (Event::Waited { own: end(10) }, &[Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: in_round(2, lets(10)), own: end(10) }, &[Effect::Stand]),
        ],
    );
    check(1, 3, &[(Event::Round(2), &[Effect::Pause]), (Event::Waited { own }, &[])]);
}

/// It did not vote in the election that failed, because its log is longer. That makes it the one to stand.
#[test]
fn a_member_that_is_told_of_a_later_round_follows_it() {
    let own = end(9);
    let told = Event::Told { from: 2, round: 4, end: end(8), own };
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (told, &[Effect::Pause, Effect::Answer(in_round(4, sees(9))), Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: in_round(4, lets(8)), own }, &[Effect::Stand]),
        ],
    );
    // It may also learn of it by an answer.
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Answered { from: 2, answer: in_round(4, sees(8)), own }, &[Effect::Pause]),
            (Event::Waited { own }, &[Effect::Ask(vec![2])]),
        ],
    );
    check(1, 3, &[(told, &[Effect::Pause, Effect::Answer(in_round(4, unaware()))])]);
}

#[test]
fn a_member_of_an_earlier_round_is_let_by_nobody_and_told_of_the_later_one() {
    let own = end(7);
    check(
        1,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![2])]),
            (Event::Round(3), &[Effect::Pause]),
            (Event::Told { from: 2, round: 1, end: end(8), own }, &[Effect::Answer(in_round(3, sees(7)))]),
            (Event::Waited { own }, &[Effect::Ask(vec![2])]),
        ],
    );
}

/// The vote changed, or did not become durable.
#[test]
fn a_member_that_could_not_stand_does_when_its_turn_comes() {
    let own = end(9);
    check(
        2,
        3,
        &[
            (Event::Seen { own }, &[Effect::Ask(vec![1])]),
            (Event::Answered { from: 1, answer: lets(8), own }, &[Effect::Stand]),
            (Event::Turn(0), &[]),
            (Event::NotStood, &[]),
            (Event::Turn(1), &[]),
            (Event::Turn(0), &[Effect::Stand]),
        ],
    );
}

/// A message under way in [`run`].
enum Message {
    Tell {
        from: u64,
        to: u64,
        round: u64,
        end: LogEnd,
    },
    Answer {
        from: u64,
        to: u64,
        answer: GoneAnswer,
    },
    /// Asks for a vote in a term.
    Vote {
        to: u64,
        term: u64,
    },
}

/// What has become of a group in [`run`].
struct Ran {
    /// Who stood, after which round.
    stood: Vec<(u64, u64)>,
    /// The latest round anybody came to.
    round: u64,
}

/// Lets `count - 1` survivors see the death and speak, in the order and with the losses `choices` says, without turns. Every
/// election fails.
fn run(count: u64, ends: &[u64], choices: &[u16]) -> Ran {
    let mut members: BTreeMap<u64, Succession> =
        (1..count).map(|id| (id, Succession::new(id, count, 1, 1..=count))).collect();
    let mut ends: BTreeMap<u64, u64> = (1..count).zip(ends.iter().copied().chain(std::iter::repeat(0))).collect();
    let mut unseen: Vec<u64> = members.keys().copied().collect();
    let mut under_way = Vec::new();
    let mut stood = Vec::new();
    for choice in choices {
        let paused: Vec<u64> = members.iter().filter(|(_, member)| member.is_paused()).map(|(id, _)| *id).collect();
        let possible = unseen.len() + under_way.len() + paused.len();
        if possible == 0 {
            break;
        }
        let pick = usize::from(*choice) % possible;
        let lost = choice % 11 == 0;
        let own = |id: &u64| end(ends[id]);
        let (id, event) = if pick < unseen.len() {
            let id = unseen.remove(pick);
            (id, Event::Seen { own: own(&id) })
        } else if let Some(id) = paused.get(pick - unseen.len()) {
            (*id, Event::Waited { own: own(id) })
        } else {
            match under_way.swap_remove(pick - unseen.len() - paused.len()) {
                _ if lost => continue,
                Message::Tell { from, to, round, end } => (to, Event::Told { from, round, end, own: own(&to) }),
                Message::Answer { from, to, answer } => (to, Event::Answered { from, answer, own: own(&to) }),
                Message::Vote { to, term } => (to, Event::Round(term)),
            }
        };
        // What the dead leader had sent is still being read.
        *ends.get_mut(&id).unwrap() += u64::from(choice % 7 == 0);
        let told_by = if let Event::Told { from, .. } = event { from } else { 0 };
        let effects = members.get_mut(&id).unwrap().apply(event);
        let round = members[&id].round();
        for effect in effects {
            match effect {
                Effect::Ask(others) => {
                    let end = end(ends[&id]);
                    under_way.extend(others.into_iter().map(|to| Message::Tell { from: id, to, round, end }));
                }
                Effect::Answer(answer) => under_way.push(Message::Answer { from: id, to: told_by, answer }),
                Effect::Stand => {
                    stood.push((round, id));
                    under_way.extend((1..count).map(|to| Message::Vote { to, term: round + 1 }));
                }
                Effect::Pause => {}
            }
        }
    }
    let round = members.values().map(Succession::round).max().unwrap();
    Ran { stood, round }
}

/// The next choice with which nothing is lost and no log grows.
fn harmless(choice: u16) -> u16 {
    (choice / 2..).find(|choice| choice % 11 != 0 && choice % 7 != 0).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_two_stand_for_the_same_leader_in_one_round(
        count in 3_u64..8,
        ends in proptest::collection::vec(0_u64..4, 7),
        choices in proptest::collection::vec(any::<u16>(), 0..600),
    ) {
        let ran = run(count, &ends, &choices);
        let rounds: BTreeSet<u64> = ran.stood.iter().map(|(round, _)| *round).collect();
        prop_assert_eq!(rounds.len(), ran.stood.len(), "{:?}", ran.stood);
        prop_assert!(ran.round <= 1 + ran.stood.len() as u64, "nobody invents a round: {} {:?}", ran.round, ran.stood);
    }

    /// Nothing is lost and no log grows: the one with the longest log stands, however often an election fails.
    #[test]
    fn of_three_one_survivor_stands_whatever_the_order(
        ends in proptest::collection::vec(0_u64..3, 2),
        choices in proptest::collection::vec(any::<u16>().prop_map(harmless), 300),
    ) {
        let best = if ends[1] > ends[0] { 2 } else { 1 };
        let stood = run(3, &ends, &choices).stood;
        prop_assert!(stood.len() > 3, "{:?}", stood);
        for (position, (round, who)) in (1..).zip(stood) {
            prop_assert_eq!((round, who), (position, best));
        }
    }
}
