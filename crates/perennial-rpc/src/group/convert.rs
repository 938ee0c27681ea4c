//! Between the plain messages and their wire form.

use bytes::Bytes;
use perennial_types::{JobManagerId, LeaderEpoch};

use super::{ChangedMember, GroupError, GroupMember, LeaderTransfer, MemberChange, Place};
use crate::WireError;
use crate::wire::{id, pb};

impl From<GroupError> for pb::GroupRefusal {
    fn from(error: GroupError) -> Self {
        use pb::group_refusal::Kind;
        let kind = match error {
            GroupError::UnknownMember(reason) => Kind::UnknownMember(reason),
            GroupError::Refused(reason) => Kind::Refused(reason),
            GroupError::Unavailable(error) => Kind::Unavailable(error.into()),
        };
        Self { kind: Some(kind) }
    }
}

impl TryFrom<pb::GroupRefusal> for GroupError {
    type Error = WireError;

    fn try_from(refusal: pb::GroupRefusal) -> Result<Self, WireError> {
        use pb::group_refusal::Kind;
        Ok(match refusal.kind.ok_or(WireError::missing("group_refusal.kind"))? {
            Kind::UnknownMember(reason) => Self::UnknownMember(reason),
            Kind::Refused(reason) => Self::Refused(reason),
            Kind::Unavailable(error) => Self::Unavailable(error.try_into()?),
        })
    }
}

impl From<GroupMember> for pb::GroupMember {
    fn from(member: GroupMember) -> Self {
        let GroupMember { id, name, address, voter } = member;
        Self { id: id.0, name, address, voter }
    }
}

impl From<pb::GroupMember> for GroupMember {
    fn from(member: pb::GroupMember) -> Self {
        let pb::GroupMember { id, name, address, voter } = member;
        Self { id: JobManagerId(id), name, address, voter }
    }
}

impl From<LeaderTransfer> for pb::LeaderTransfer {
    fn from(transfer: LeaderTransfer) -> Self {
        Self {
            from: Some(transfer.from.into()),
            to: Some(transfer.to.into()),
            old_epoch: transfer.old_epoch.0,
            new_epoch: transfer.new_epoch.0,
            gap_ms: transfer.gap_ms,
        }
    }
}

impl TryFrom<pb::LeaderTransfer> for LeaderTransfer {
    type Error = WireError;

    fn try_from(transfer: pb::LeaderTransfer) -> Result<Self, WireError> {
        Ok(Self {
            from: transfer.from.ok_or(WireError::missing("leader_transfer.from"))?.into(),
            to: transfer.to.ok_or(WireError::missing("leader_transfer.to"))?.into(),
            old_epoch: LeaderEpoch(transfer.old_epoch),
            new_epoch: LeaderEpoch(transfer.new_epoch),
            gap_ms: transfer.gap_ms,
        })
    }
}

impl From<MemberChange> for pb::ChangeMemberRequest {
    fn from(change: MemberChange) -> Self {
        use pb::change_member_request::{AddMember, Change};
        let change = match change {
            MemberChange::Add { name, address } => Change::Add(AddMember { name, address }),
            MemberChange::Promote(who) => Change::Promote(who),
            MemberChange::Remove(who) => Change::Remove(who),
        };
        Self { change: Some(change) }
    }
}

impl TryFrom<pb::ChangeMemberRequest> for MemberChange {
    type Error = WireError;

    fn try_from(request: pb::ChangeMemberRequest) -> Result<Self, WireError> {
        use pb::change_member_request::{AddMember, Change};
        Ok(match request.change.ok_or(WireError::missing("change_member.change"))? {
            Change::Add(AddMember { name, address }) => Self::Add { name, address },
            Change::Promote(who) => Self::Promote(who),
            Change::Remove(who) => Self::Remove(who),
        })
    }
}

impl From<ChangedMember> for pb::ChangedMember {
    fn from(changed: ChangedMember) -> Self {
        Self { member: Some(changed.member.into()), was_so: changed.was_so }
    }
}

impl TryFrom<pb::ChangedMember> for ChangedMember {
    type Error = WireError;

    fn try_from(changed: pb::ChangedMember) -> Result<Self, WireError> {
        let member = changed.member.ok_or(WireError::missing("changed_member.member"))?.into();
        Ok(Self { member, was_so: changed.was_so })
    }
}

impl From<Place> for pb::Place {
    fn from(place: Place) -> Self {
        Self {
            cluster: Bytes::copy_from_slice(place.cluster.as_bytes()),
            group: place.group,
            id: place.id.0,
            index: place.index,
            members: place.members.into_iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<pb::Place> for Place {
    type Error = WireError;

    fn try_from(place: pb::Place) -> Result<Self, WireError> {
        Ok(Self {
            cluster: id(&place.cluster, "place.cluster")?,
            group: place.group,
            id: JobManagerId(place.id),
            index: place.index,
            members: place.members.into_iter().map(Into::into).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::ClusterId;

    use super::*;
    use crate::dispatcher::Unavailable;

    fn member(id: u64) -> GroupMember {
        GroupMember { id: JobManagerId(id), name: format!("jm-{id}"), address: format!("h{id}:1"), voter: id != 2 }
    }

    #[test]
    fn messages_come_back_as_they_were() {
        let transfer = LeaderTransfer {
            from: member(1),
            to: member(2),
            old_epoch: LeaderEpoch(4),
            new_epoch: LeaderEpoch(5),
            gap_ms: 6,
        };
        assert_eq!(LeaderTransfer::try_from(pb::LeaderTransfer::from(transfer.clone())), Ok(transfer));
        for change in [
            MemberChange::Add { name: "jm-4".to_owned(), address: "h:1".to_owned() },
            MemberChange::Promote("jm-4".to_owned()),
            MemberChange::Remove("4".to_owned()),
        ] {
            assert_eq!(MemberChange::try_from(pb::ChangeMemberRequest::from(change.clone())), Ok(change));
        }
        let changed = ChangedMember { member: member(3), was_so: true };
        assert_eq!(ChangedMember::try_from(pb::ChangedMember::from(changed.clone())), Ok(changed));
        let place = Place {
            cluster: ClusterId::from_bytes([6; 16]),
            group: u64::MAX,
            id: JobManagerId(4),
            index: 77,
            members: vec![member(1), member(4)],
        };
        assert_eq!(Place::try_from(pb::Place::from(place.clone())), Ok(place.clone()));
        let mut wrong = pb::Place::from(place);
        wrong.cluster = Bytes::from_static(b"short");
        assert_eq!(Place::try_from(wrong).unwrap_err().field, "place.cluster");
    }

    #[test]
    fn refusals_come_back_as_they_were() {
        for error in [
            GroupError::UnknownMember("a".to_owned()),
            GroupError::Refused("b".to_owned()),
            GroupError::Unavailable(Unavailable::NoLeader { reason: "c".to_owned() }),
        ] {
            assert_eq!(GroupError::try_from(pb::GroupRefusal::from(error.clone())), Ok(error));
        }
        assert_eq!(GroupError::try_from(pb::GroupRefusal::default()).unwrap_err().field, "group_refusal.kind");
    }
}
