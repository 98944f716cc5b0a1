//! Header blocks: names and values, compressed with a dictionary that both ends know (SPDY protocol,
//! draft 3, section 2.6.10).

use std::collections::HashMap;
use std::io;
use std::sync::LazyLock;

use bytes::{Buf, BufMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// Words at the dictionary's start, each preceded by its length.
const WORDS: &str = "options head post put delete trace accept accept-charset accept-encoding \
accept-language accept-ranges age allow authorization cache-control connection content-base \
content-encoding content-language content-length content-location content-md5 content-range content-type \
date etag expect expires from host if-match if-modified-since if-none-match if-range if-unmodified-since \
last-modified location max-forwards pragma proxy-authenticate proxy-authorization range referer \
retry-after server te trailer transfer-encoding upgrade user-agent vary via warning www-authenticate \
method get status 200_OK version HTTP/1.1 url public set-cookie keep-alive origin";
/// The text after them.
const REST: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized\
403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable\
Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT\
chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,\
text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

static DICTIONARY: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let mut dictionary = Vec::new();
    for word in WORDS.split_whitespace() {
        let word = word.replace('_', " ");
        dictionary.put_u32(u32::try_from(word.len()).unwrap_or(0));
        dictionary.put_slice(word.as_bytes());
    }
    dictionary.put_slice(REST.as_bytes());
    dictionary
});

/// Longest block after decompression, in bytes.
const LONGEST: usize = 256 * 1024;

/// Compresses a connection's header blocks, one after the other.
pub struct Compressor(Compress);

impl Compressor {
    pub fn new() -> io::Result<Self> {
        let mut compress = Compress::new(Compression::fast(), true);
        compress.set_dictionary(&DICTIONARY).map_err(io::Error::other)?;
        Ok(Self(compress))
    }

    /// The next block.
    pub fn headers(&mut self, headers: &HashMap<String, String>) -> io::Result<Vec<u8>> {
        let mut plain = Vec::new();
        plain.put_u32(u32::try_from(headers.len()).map_err(io::Error::other)?);
        for text in headers.iter().flat_map(|(name, value)| [name, value]) {
            plain.put_u32(u32::try_from(text.len()).map_err(io::Error::other)?);
            plain.put_slice(text.as_bytes());
        }
        let begin = self.0.total_in();
        let mut out = Vec::with_capacity(plain.len() + 64);
        loop {
            let done = usize::try_from(self.0.total_in() - begin).map_err(io::Error::other)?;
            let before = out.len();
            self.0.compress_vec(&plain[done..], &mut out, FlushCompress::Sync).map_err(io::Error::other)?;
            let taken = self.0.total_in() - begin == plain.len() as u64;
            if taken && out.len() < out.capacity() {
                return Ok(out);
            }
            if out.len() == before && taken {
                return Ok(out);
            }
            out.reserve(256);
        }
    }
}

/// Decompresses a connection's header blocks, one after the other.
pub struct Decompressor(Decompress);

impl Decompressor {
    pub fn new() -> Self {
        Self(Decompress::new(true))
    }

    /// The headers of the next block, names in lower case.
    pub fn headers(&mut self, block: &[u8]) -> io::Result<HashMap<String, String>> {
        let mut plain = self.inflate(block)?.into();
        let mut headers = HashMap::new();
        for _ in 0..number(&mut plain)? {
            let name = text(&mut plain)?.to_lowercase();
            headers.insert(name, text(&mut plain)?);
        }
        Ok(headers)
    }

    fn inflate(&mut self, block: &[u8]) -> io::Result<Vec<u8>> {
        let begin = self.0.total_in();
        let mut out = Vec::with_capacity(1024);
        loop {
            let done = usize::try_from(self.0.total_in() - begin).map_err(io::Error::other)?;
            let result = self.0.decompress_vec(&block[done..], &mut out, FlushDecompress::Sync);
            let progress = match result {
                Ok(status) => status != Status::BufError,
                Err(error) if error.needs_dictionary().is_some() => {
                    self.0.set_dictionary(&DICTIONARY).map_err(invalid)?;
                    continue;
                }
                Err(error) => return Err(invalid(error)),
            };
            let taken = self.0.total_in() - begin == block.len() as u64;
            if taken && out.len() < out.capacity() {
                return Ok(out);
            }
            if !progress && out.len() < out.capacity() {
                return Err(invalid("a header block cut short"));
            }
            if out.len() > LONGEST {
                return Err(invalid("a header block too long"));
            }
            out.reserve(1024);
        }
    }
}

fn number(from: &mut bytes::Bytes) -> io::Result<u32> {
    from.try_get_u32().map_err(invalid)
}

fn text(from: &mut bytes::Bytes) -> io::Result<String> {
    let length = number(from)? as usize;
    if length > from.remaining() {
        return Err(invalid("a header longer than its block"));
    }
    String::from_utf8(from.copy_to_bytes(length).to_vec()).map_err(invalid)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_survive_compression_in_sequence() {
        let (mut compressor, mut decompressor) = (Compressor::new().unwrap(), Decompressor::new());
        for length in [0, 1, 10, 5000, 3] {
            let mut headers = HashMap::from([("streamtype".to_owned(), "error".to_owned())]);
            headers.insert("port".to_owned(), "8".repeat(length));
            let block = compressor.headers(&headers).unwrap();
            assert_eq!(decompressor.headers(&block).unwrap(), headers);
        }
    }

    #[test]
    fn the_dictionary_is_the_known_one() {
        assert_eq!(DICTIONARY.len(), 1423);
        let adler = DICTIONARY.iter().fold((1u32, 0u32), |(a, b), byte| {
            let a = (a + u32::from(*byte)) % 65_521;
            (a, (b + a) % 65_521)
        });
        assert_eq!(adler.1 << 16 | adler.0, 0xE3C6_A7C2);
    }
}
