//! Frames on the wire (SPDY protocol, draft 3.1, section 2).

use std::collections::HashMap;
use std::io;

use bytes::{BufMut, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::exactly;
use super::headers::{Compressor, Decompressor};

const VERSION: u16 = 3;
const CONTROL: u32 = 1 << 31;
const FIN: u8 = 1;
/// Statuses of `RST_STREAM`.
const CANCEL: u32 = 5;
const INTERNAL_ERROR: u32 = 6;
/// Longest control frame accepted, in bytes; header blocks are short here.
const LONGEST_CONTROL: usize = 64 * 1024;
/// Longest piece of data accepted at once, in bytes.
const LONGEST_DATA: usize = 16 << 20;

/// A frame, as far as it means something here.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// `SYN_STREAM`.
    Open { id: u32, headers: HashMap<String, String>, fin: bool },
    /// `SYN_REPLY`.
    Reply { id: u32 },
    /// `RST_STREAM`, and whether it says only that the stream is over (`CANCEL`).
    Reset { id: u32, cancel: bool },
    /// `PING`.
    Ping { id: u32 },
    /// `GOAWAY`.
    GoAway,
    /// Data.
    Data { id: u32, bytes: Bytes, fin: bool },
    /// Anything else.
    Other,
}

impl Frame {
    /// Reads a frame; none where the connection has ended between two.
    pub async fn read(
        from: &mut (impl AsyncRead + Unpin),
        decompressor: &mut Decompressor,
    ) -> io::Result<Option<Self>> {
        let first = match from.read_u32().await {
            Ok(first) => first,
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        };
        let second = from.read_u32().await?;
        let (flags, length) = ((second >> 24) as u8, (second & 0xFF_FFFF) as usize);
        if first & CONTROL == 0 {
            if length > LONGEST_DATA {
                return Err(invalid("a data frame too long"));
            }
            let bytes = exactly(from, length).await?;
            return Ok(Some(Self::Data { id: first, bytes, fin: flags & FIN != 0 }));
        }
        if (first >> 16) & 0x7FFF != u32::from(VERSION) {
            return Err(invalid("not SPDY version 3"));
        }
        if length > LONGEST_CONTROL {
            return Err(invalid("a control frame too long"));
        }
        let body = exactly(from, length).await?;
        let number = |at: usize| -> io::Result<u32> {
            let bytes = body.get(at..at + 4).ok_or_else(|| invalid("a control frame too short"))?;
            Ok(u32::from_be_bytes(bytes.try_into().map_err(|_| invalid("a control frame too short"))?))
        };
        Ok(Some(match first & 0xFFFF {
            1 => {
                let block = body.get(10..).ok_or_else(|| invalid("a control frame too short"))?;
                let headers = decompressor.headers(block)?;
                Self::Open { id: number(0)? & !CONTROL, headers, fin: flags & FIN != 0 }
            }
            2 => {
                // Read, for the compression's state goes on through all blocks.
                let block = body.get(4..).ok_or_else(|| invalid("a control frame too short"))?;
                decompressor.headers(block)?;
                Self::Reply { id: number(0)? & !CONTROL }
            }
            3 => Self::Reset { id: number(0)? & !CONTROL, cancel: number(4)? == CANCEL },
            6 => Self::Ping { id: number(0)? },
            7 => Self::GoAway,
            8 => {
                let block = body.get(4..).ok_or_else(|| invalid("a control frame too short"))?;
                decompressor.headers(block)?;
                Self::Other
            }
            _ => Self::Other,
        }))
    }

    /// Writes the frame.
    pub async fn write(
        &self,
        to: &mut (impl AsyncWrite + Unpin),
        compressor: &mut Compressor,
    ) -> io::Result<()> {
        let flag = |fin: bool| if fin { FIN } else { 0 };
        let (kind, flags, body): (u16, u8, Vec<u8>) = match self {
            Self::Data { id, bytes, fin } => {
                to.write_u32(*id).await?;
                to.write_u32(head(flag(*fin), bytes.len())?).await?;
                return to.write_all(bytes).await;
            }
            Self::Open { id, headers, fin } => {
                let mut body = Vec::new();
                body.put_u32(*id);
                body.put_u32(0);
                body.put_u16(0);
                body.extend(compressor.headers(headers)?);
                (1, flag(*fin), body)
            }
            Self::Reply { id } => {
                let mut body = id.to_be_bytes().to_vec();
                body.extend(compressor.headers(&HashMap::new())?);
                (2, 0, body)
            }
            Self::Reset { id, cancel } => {
                let status = if *cancel { CANCEL } else { INTERNAL_ERROR };
                (3, 0, [id.to_be_bytes(), status.to_be_bytes()].concat())
            }
            Self::Ping { id } => (6, 0, id.to_be_bytes().to_vec()),
            Self::GoAway => (7, 0, vec![0; 8]),
            Self::Other => return Ok(()),
        };
        to.write_u32(CONTROL | u32::from(VERSION) << 16 | u32::from(kind)).await?;
        to.write_u32(head(flags, body.len())?).await?;
        to.write_all(&body).await
    }
}

fn head(flags: u8, length: usize) -> io::Result<u32> {
    match u32::try_from(length) {
        Ok(length @ ..=0xFF_FFFF) => Ok(u32::from(flags) << 24 | length),
        _ => Err(invalid("a frame too long")),
    }
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("SPDY: {what}"))
}
