use proptest::prelude::*;

use super::*;

fn end(index: u64) -> LogEnd {
    LogEnd { term: 1, index }
}

fn lets(index: u64) -> GoneAnswer {
    GoneAnswer { seen: Some(end(index)), yields: true }
}

fn sees(index: u64) -> GoneAnswer {
    GoneAnswer { seen: Some(end(index)), yields: false }
}

/// Applies events to member `this` of a group of `count` led by the last one, and compares the effects of each.
#[track_caller]
fn check(this: u64, count: u64, table: &[(Event, &[Effect])]) {
    let mut succession = Succession::new(this, count, 1..=count);
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
            (Event::Told { from: 1, end: own, own }, &[Effect::Answer(lets(9))]),
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
            (Event::Told { from: 2, end: own, own }, &[Effect::Answer(sees(9)), Effect::Ask(vec![2])]),
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
            (Event::Told { from: 2, end: end(7), own }, &[Effect::Answer(sees(9)), Effect::Ask(vec![2])]),
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
    let told = Event::Told { from: 2, end: end(9), own: end(1) };
    check(1, 3, &[(told, &[Effect::Answer(GoneAnswer::UNAWARE)]), (Event::Turn(0), &[])]);
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
            (Event::Told { from: 2, end: end(10), own }, &[Effect::Answer(GoneAnswer::UNAWARE)]),
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
            (Event::Told { from: 2, end: end(6), own }, &[Effect::Answer(lets(5))]),
            (Event::Told { from: 1, end: end(7), own }, &[Effect::Answer(sees(5))]),
            (Event::Told { from: 2, end: end(6), own }, &[Effect::Answer(sees(5))]),
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
            (Event::Told { from: 3, end: end(9), own }, &[Effect::Answer(sees(9))]),
            (Event::Told { from: 7, end: end(9), own }, &[Effect::Answer(sees(9))]),
            (Event::Turn(0), &[Effect::Ask(vec![2])]),
        ],
    );
    let mut learner = Succession::new(9, 3, 1..=3);
    assert_eq!(learner.apply(Event::Seen { own }), []);
}

/// A message under way in [`run`].
enum Message {
    Tell { from: u64, to: u64, end: LogEnd },
    Answer { from: u64, to: u64, answer: GoneAnswer },
}

/// Lets `count - 1` survivors see the death and speak, in the order and with the losses `choices` says, without turns.
/// Returns who stood.
fn run(count: u64, ends: &[u64], choices: &[u16]) -> Vec<u64> {
    let mut members: BTreeMap<u64, Succession> =
        (1..count).map(|id| (id, Succession::new(id, count, 1..=count))).collect();
    let mut ends: BTreeMap<u64, u64> = (1..count).zip(ends.iter().copied().chain(std::iter::repeat(0))).collect();
    let mut unseen: Vec<u64> = members.keys().copied().collect();
    let mut under_way = Vec::new();
    let mut stood = Vec::new();
    for choice in choices {
        let possible = unseen.len() + under_way.len();
        if possible == 0 {
            break;
        }
        let pick = usize::from(*choice) % possible;
        let lost = choice % 11 == 0;
        let (id, event) = if pick < unseen.len() {
            let id = unseen.remove(pick);
            (id, Event::Seen { own: end(ends[&id]) })
        } else {
            match under_way.swap_remove(pick - unseen.len()) {
                _ if lost => continue,
                Message::Tell { from, to, end: theirs } => (to, Event::Told { from, end: theirs, own: end(ends[&to]) }),
                Message::Answer { from, to, answer } => (to, Event::Answered { from, answer, own: end(ends[&to]) }),
            }
        };
        // What the dead leader had sent is still being read.
        *ends.get_mut(&id).unwrap() += u64::from(choice % 7 == 0);
        let told_by = if let Event::Told { from, .. } = event { from } else { 0 };
        for effect in members.get_mut(&id).unwrap().apply(event) {
            match effect {
                Effect::Ask(others) => {
                    under_way.extend(others.into_iter().map(|to| Message::Tell { from: id, to, end: end(ends[&id]) }));
                }
                Effect::Answer(answer) => under_way.push(Message::Answer { from: id, to: told_by, answer }),
                Effect::Stand => stood.push(id),
            }
        }
    }
    stood
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn never_two_stand_for_the_same_leader(
        count in 3_u64..8,
        ends in proptest::collection::vec(0_u64..4, 7),
        choices in proptest::collection::vec(any::<u16>(), 0..300),
    ) {
        prop_assert!(run(count, &ends, &choices).len() <= 1);
    }

    /// Nothing is lost and no log grows: the one with the longest log stands.
    #[test]
    fn of_three_one_survivor_stands_whatever_the_order(
        ends in proptest::collection::vec(0_u64..3, 2),
        choices in proptest::collection::vec(any::<u16>().prop_filter("no loss, no growth", |c| c % 11 != 0 && c % 7 != 0), 100),
    ) {
        let best = if ends[1] > ends[0] { 2 } else { 1 };
        prop_assert_eq!(run(3, &ends, &choices), vec![best]);
    }
}
