//! The rules, by tables of what the leader sees.

use super::*;

const HEARD: Option<Duration> = Some(Duration::from_millis(40));
const LONG_AGO: Option<Duration> = Some(Duration::from_secs(60));

fn voter(id: u64, silence: Option<Duration>) -> Seen {
    let (name, address) = (format!("jm-{}", char::from(b'a' + id as u8 - 1)), format!("h:{id}"));
    Seen { id: JobManagerId(id), name, address, voter: true, this: id == 1, silence, lag: Some(0) }
}

fn learner(id: u64, silence: Option<Duration>, lag: Option<u64>) -> Seen {
    Seen { voter: false, lag, ..voter(id, silence) }
}

fn reason<T: std::fmt::Debug>(result: Result<T, GroupError>) -> String {
    let error = result.unwrap_err();
    assert!(matches!(error, GroupError::Refused(_)), "{error:?}");
    error.to_string()
}

#[test]
fn members_are_meant_by_name_or_number() {
    let members = [voter(1, HEARD), voter(2, HEARD)];
    assert_eq!(find(&members, "jm-b").unwrap().id.0, 2);
    assert_eq!(find(&members, "2").unwrap().id.0, 2);
    assert_eq!(find(&members, "jm-2").unwrap().id.0, 2);
    let unknown = find(&members, "jm-9").unwrap_err();
    assert_eq!(unknown, GroupError::UnknownMember("no member jm-9; there are jm-a (1), jm-b (2)".to_owned()));
}

#[test]
fn a_name_goes_before_a_number() {
    let named = Seen { name: "2".to_owned(), ..voter(1, HEARD) };
    assert_eq!(find(&[named, voter(2, HEARD)], "2").unwrap().id.0, 1);
}

#[test]
fn only_a_voter_that_is_reached_is_handed_the_leadership() {
    let lagging = Seen { lag: Some(9), ..voter(2, HEARD) };
    let members = [voter(1, HEARD), lagging, voter(3, HEARD), voter(4, LONG_AGO), learner(5, HEARD, Some(0))];
    assert_eq!(may_lead(&members, None).unwrap().id.0, 3, "the furthest");
    assert_eq!(may_lead(&members, Some("jm-b")).unwrap().id.0, 2);
    assert_eq!(reason(may_lead(&members, Some("jm-a"))), "jm-a leads already");
    assert!(reason(may_lead(&members, Some("jm-d"))).contains("was last heard of 60000 ms ago"));
    assert!(reason(may_lead(&members, Some("jm-e"))).contains("perennial member promote jm-e"));
    assert!(reason(may_lead(&[voter(1, HEARD), voter(2, None)], None)).contains("no other member that votes"));
    assert!(matches!(may_lead(&members, Some("x")), Err(GroupError::UnknownMember(_))));
}

#[test]
fn a_learner_that_lags_or_is_away_gets_no_vote() {
    assert_eq!(may_promote(&learner(4, HEARD, Some(PROMOTION_LAG_MAX))), Ok(()));
    assert!(reason(may_promote(&learner(4, HEARD, Some(1234)))).contains("jm-d lacks 1234 entries"));
    assert!(reason(may_promote(&learner(4, HEARD, None))).contains("jm-d lacks all entries"));
    assert!(reason(may_promote(&learner(4, LONG_AGO, Some(0)))).contains("jm-d was last heard of 60000 ms ago"));
    assert!(reason(may_promote(&learner(4, None, None))).contains("jm-d was not heard of by this leader"));
}

#[test]
fn what_would_lose_the_quorum_is_not_removed() {
    let members = [voter(1, HEARD), voter(2, HEARD), voter(3, LONG_AGO)];
    assert_eq!(may_remove(&members, &members[2]), Ok(()), "the one that is away");
    let refused = reason(may_remove(&members, &members[1]));
    assert!(refused.contains("1 of its 2 members would be reached, and 2 are needed"), "{refused}");
    assert!(refused.contains("jm-c was last heard of 60000 ms ago"), "{refused}");
    assert!(reason(may_remove(&[voter(1, HEARD)], &voter(1, HEARD))).contains("the only member that votes"));
    let pair = [voter(1, HEARD), voter(2, HEARD)];
    assert_eq!(may_remove(&pair, &pair[1]), Ok(()));
    let with_learner = [voter(1, HEARD), learner(2, None, None)];
    assert_eq!(may_remove(&with_learner, &with_learner[1]), Ok(()), "a learner counts for nothing");
}

#[test]
fn names_and_numbers_are_used_once() {
    let members = [voter(1, HEARD), voter(2, HEARD)];
    let removed = [(7, "jm-g".to_owned())];
    assert_eq!(may_add(&members, &removed, "jm-c", "h:3"), Ok(None));
    assert_eq!(may_add(&members, &removed, "jm-b", "h:2"), Ok(Some(members[1].member())), "said again");
    for (name, address, part) in [
        ("jm-b", "h:9", "jm-b is a member already, at h:2"),
        ("jm-c", "h:2", "h:2 is the address of jm-b"),
        ("jm-g", "h:7", "a member jm-g was removed before"),
        ("", "h:1", "no name"),
        ("a b", "h:1", "no name"),
        ("a=b", "h:1", "no name"),
        ("jm-c", "h", "no address"),
        ("jm-c", ":1", "no address"),
        ("jm-c", "h:port", "no address"),
    ] {
        let refused = reason(may_add(&members, &removed, name, address));
        assert!(refused.contains(part), "{refused}");
    }
    assert_eq!(fresh_id(&members, &removed), 8);
    assert_eq!(fresh_id(&members, &[]), 3);
}
