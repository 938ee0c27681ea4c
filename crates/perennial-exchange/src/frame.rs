//! What travels between two executors of a job, byte by byte.
//!
//! All executors of a job are the same bytes, so this layout is checked, not negotiated. A connection carries the data of
//! one direction and, backwards, the credit for it. Integers are little endian.
//!
//! ```text
//! greeting   magic "PRNL", u32 version, 16 bytes job, u16 length and name of the sender, the same of the receiver
//! welcome    u8 0, or u8 1 with u16 length and text of the refusal
//! frame      u32 bytes of payload, u32 channel, u32 count, u8 kind, 3 bytes "prn", payload
//! grant      u32 channel, u32 count                                            (backwards)
//! ```

use std::io::{self, Read, Write};

use perennial_types::JobId;

/// Version of this layout.
const VERSION: u32 = 4;

const GREETING_MAGIC: &[u8; 4] = b"PRNL";
const FRAME_MAGIC: &[u8; 3] = b"prn";

/// Bytes of a frame before its payload.
pub(crate) const HEADER_BYTES: usize = 16;

/// Bytes of a grant.
pub(crate) const GRANT_BYTES: usize = 8;

/// Largest payload. A batch is below the segment size unless single records are larger; beyond this it is corruption.
pub(crate) const PAYLOAD_BYTES_MAX: usize = 256 << 20;

/// Longest name of an executor.
const NAME_BYTES_MAX: usize = 1024;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Opens a channel; the payload says between whom.
    Open,
    /// A batch of `count` records.
    Data,
    /// The channel has ended as it should.
    End,
    /// The producer has gone without an end.
    Close,
    /// A barrier, in the payload.
    Barrier,
    /// A watermark, in the payload.
    Watermark,
    /// The channel has no watermark to wait for.
    Idle,
    /// Only barriers come on the channel from now on.
    EndOfData,
}

/// The fixed part of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Header {
    pub(crate) payload_bytes: usize,
    pub(crate) channel: u32,
    pub(crate) count: u32,
    pub(crate) kind: Kind,
}

impl Header {
    pub(crate) fn encode(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        let kind = match self.kind {
            Kind::Open => 1u8,
            Kind::Data => 2,
            Kind::End => 3,
            Kind::Close => 4,
            Kind::Barrier => 5,
            Kind::Watermark => 6,
            Kind::Idle => 7,
            Kind::EndOfData => 8,
        };
        let length = (self.payload_bytes as u32).to_le_bytes();
        let parts: [&[u8]; 5] = [&length, &self.channel.to_le_bytes(), &self.count.to_le_bytes(), &[kind], FRAME_MAGIC];
        for (to, from) in bytes.iter_mut().zip(parts.into_iter().flatten()) {
            *to = *from;
        }
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, String> {
        let [l0, l1, l2, l3, c0, c1, c2, c3, n0, n1, n2, n3, kind, magic @ ..] = *bytes;
        let payload_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        if magic != *FRAME_MAGIC {
            return Err("a frame does not begin like one".to_owned());
        }
        if payload_bytes > PAYLOAD_BYTES_MAX {
            return Err(format!("a frame of {payload_bytes} bytes, at most {PAYLOAD_BYTES_MAX}"));
        }
        let kind = match kind {
            1 => Kind::Open,
            2 => Kind::Data,
            3 => Kind::End,
            4 => Kind::Close,
            5 => Kind::Barrier,
            6 => Kind::Watermark,
            7 => Kind::Idle,
            8 => Kind::EndOfData,
            other => return Err(format!("a frame of unknown kind {other}")),
        };
        let (channel, count) = (u32::from_le_bytes([c0, c1, c2, c3]), u32::from_le_bytes([n0, n1, n2, n3]));
        Ok(Self { payload_bytes, channel, count, kind })
    }
}

/// Which channel of a job: the index of the edge, and the subtask and attempt at both ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    /// Index in `JobGraph::edges`.
    pub edge: u32,
    /// Producing subtask and attempt.
    pub producer: (u32, u32),
    /// Consuming subtask and attempt.
    pub consumer: (u32, u32),
}

impl ChannelKey {
    pub(crate) fn encode(&self) -> Vec<u8> {
        [self.edge, self.producer.0, self.producer.1, self.consumer.0, self.consumer.1]
            .iter()
            .flat_map(|number| number.to_le_bytes())
            .collect()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, String> {
        let (numbers, rest) = bytes.as_chunks::<4>();
        match (numbers, rest) {
            ([edge, ps, pa, cs, ca], []) => {
                let number = |bytes: &[u8; 4]| u32::from_le_bytes(*bytes);
                let (producer, consumer) = ((number(ps), number(pa)), (number(cs), number(ca)));
                Ok(Self { edge: number(edge), producer, consumer })
            }
            _ => Err(format!("a channel is named by 20 bytes, not {}", bytes.len())),
        }
    }
}

/// A grant of credit.
pub(crate) fn encode_grant(channel: u32, count: u32) -> [u8; GRANT_BYTES] {
    ((u64::from(count) << 32) | u64::from(channel)).to_le_bytes()
}

/// Channel and count of a grant.
pub(crate) fn decode_grant(bytes: [u8; GRANT_BYTES]) -> (u32, u32) {
    let both = u64::from_le_bytes(bytes);
    (both as u32, (both >> 32) as u32)
}

/// Who connects to whom.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Greeting {
    pub(crate) job: JobId,
    pub(crate) from: String,
    pub(crate) to: String,
}

impl Greeting {
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let mut bytes = GREETING_MAGIC.to_vec();
        bytes.extend(VERSION.to_le_bytes());
        bytes.extend(self.job.as_bytes());
        put_text(&mut bytes, &self.from);
        put_text(&mut bytes, &self.to);
        to.write_all(&bytes)
    }

    pub(crate) fn read(from: &mut impl Read) -> io::Result<Self> {
        let (mut magic, mut version, mut job) = ([0; 4], [0; 4], [0; 16]);
        from.read_exact(&mut magic)?;
        if magic != *GREETING_MAGIC {
            return Err(invalid("it does not speak the protocol of executors"));
        }
        from.read_exact(&mut version)?;
        from.read_exact(&mut job)?;
        let version = u32::from_le_bytes(version);
        if version != VERSION {
            return Err(invalid(&format!("it speaks version {version} of the protocol, not {VERSION}")));
        }
        Ok(Self { job: JobId::from_bytes(job), from: take_text(from)?, to: take_text(from)? })
    }
}

/// Answers a greeting.
pub(crate) fn write_welcome(to: &mut impl Write, refusal: Option<&str>) -> io::Result<()> {
    let mut bytes = vec![u8::from(refusal.is_some())];
    if let Some(text) = refusal {
        put_text(&mut bytes, text);
    }
    to.write_all(&bytes)
}

/// Reads the answer to a greeting; a refusal is an error.
pub(crate) fn read_welcome(from: &mut impl Read) -> io::Result<()> {
    let mut answer = [0; 1];
    from.read_exact(&mut answer)?;
    match answer {
        [0] => Ok(()),
        [1] => Err(invalid(&format!("it refused: {}", take_text(from)?))),
        _ => Err(invalid("it does not speak the protocol of executors")),
    }
}

fn invalid(reason: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let mut end = text.len().min(NAME_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let text = text.get(..end).unwrap_or_default();
    bytes.extend((text.len() as u16).to_le_bytes());
    bytes.extend(text.as_bytes());
}

fn take_text(from: &mut impl Read) -> io::Result<String> {
    let mut length = [0; 2];
    from.read_exact(&mut length)?;
    let length = usize::from(u16::from_le_bytes(length));
    if length > NAME_BYTES_MAX {
        return Err(invalid("a name is too long"));
    }
    let mut text = vec![0; length];
    from.read_exact(&mut text)?;
    String::from_utf8(text).map_err(|_| invalid("a name is not UTF-8 text"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_grants_keys_and_greetings_round_trip() {
        use Kind::*;
        for kind in [Open, Data, End, Close, Barrier, Watermark, Idle, EndOfData] {
            let header = Header { payload_bytes: 65_536, channel: 7, count: 4096, kind };
            assert_eq!(Header::decode(&header.encode()), Ok(header));
        }
        assert_eq!(decode_grant(encode_grant(5, u32::MAX)), (5, u32::MAX));
        let key = ChannelKey { edge: 1, producer: (2, 3), consumer: (4, 5) };
        assert_eq!(ChannelKey::decode(&key.encode()), Ok(key));
        let greeting = Greeting { job: JobId::from_bytes([9; 16]), from: "tm-1".to_owned(), to: "tm-ß".to_owned() };
        let mut bytes = Vec::new();
        greeting.write(&mut bytes).unwrap();
        assert_eq!(Greeting::read(&mut bytes.as_slice()).unwrap(), greeting);
    }

    #[test]
    fn foreign_bytes_are_refused() {
        let good = Header { payload_bytes: 1, channel: 0, count: 1, kind: Kind::Data }.encode();
        for (at, value) in [(3, 0xff), (12, 0), (12, 9), (13, b'x')] {
            let mut bad = good;
            bad[at] = value;
            assert!(Header::decode(&bad).is_err(), "byte {at} = {value}");
        }
        assert!(ChannelKey::decode(&[0; 19]).is_err());
        assert!(Greeting::read(&mut &b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n"[..]).is_err());
        let mut long = GREETING_MAGIC.to_vec();
        long.extend(VERSION.to_le_bytes());
        long.extend([0; 16]);
        long.extend([0xff; 2]);
        assert!(Greeting::read(&mut long.as_slice()).is_err());
    }
}
