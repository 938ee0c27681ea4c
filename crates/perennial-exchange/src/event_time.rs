//! How far event time is, and what else travels in a channel without credit.

use crate::frame::Kind;
use crate::{Barrier, Element};

/// How far event time is on a channel.
///
/// Of several in a row without anything between only the last counts: it replaces those that still wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EventTime {
    /// No record of this or an earlier time is expected any more: a timestamp in ms since 1970. `i64::MAX` says that the input has
    /// ended. It never falls, and ends what [`EventTime::Idle`] began.
    Watermark(i64),
    /// Nobody shall wait for a watermark of this channel until its next one.
    Idle,
}

/// What travels in a channel among the batches and takes no credit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Control {
    Barrier(Barrier),
    Time(EventTime),
    EndOfData,
}

impl Control {
    /// Puts this at the end of a queue, in the place of a time that is there already and of which nobody has to know.
    pub(crate) fn append_to(self, queue: &mut Vec<Self>) {
        match (queue.last_mut(), self) {
            (Some(last @ Self::Time(_)), Self::Time(_)) => *last = self,
            _ => queue.push(self),
        }
    }

    /// Writes the payload of its frame.
    pub(crate) fn encode(self, frame: &mut Vec<u8>) {
        match self {
            Self::Barrier(barrier) => frame.extend(barrier.encode()),
            Self::Time(EventTime::Watermark(time)) => frame.extend(time.to_le_bytes()),
            Self::Time(EventTime::Idle) | Self::EndOfData => {}
        }
    }

    /// Kind of its frame.
    pub(crate) fn kind(self) -> Kind {
        match self {
            Self::Barrier(_) => Kind::Barrier,
            Self::Time(EventTime::Watermark(_)) => Kind::Watermark,
            Self::Time(EventTime::Idle) => Kind::Idle,
            Self::EndOfData => Kind::EndOfData,
        }
    }

    /// The time in the payload of a frame of [`Kind::Watermark`].
    pub(crate) fn decode_watermark(payload: &[u8]) -> Result<Self, String> {
        match <[u8; 8]>::try_from(payload) {
            Ok(bytes) => Ok(Self::Time(EventTime::Watermark(i64::from_le_bytes(bytes)))),
            Err(_) => Err(format!("a watermark is 8 bytes, not {}", payload.len())),
        }
    }
}

impl From<Control> for Element {
    fn from(control: Control) -> Self {
        match control {
            Control::Barrier(barrier) => Self::Barrier(barrier),
            Control::Time(time) => Self::Watermark(time),
            Control::EndOfData => Self::EndOfData,
        }
    }
}
