//! Names on the host: each carries its node's id, so that clusters and nodes sharing a host never clash.

use std::fmt;

/// What tells one node of one cluster from all others on this host, e.g. `dev-node1`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct NodeId(String);

impl NodeId {
    /// An id of letters, digits and dashes; everything else becomes a dash.
    pub fn new(name: &str) -> Self {
        let keep = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
        Self(name.chars().map(keep).collect())
    }

    /// The nf_tables table of one of our rooms, `tiphys-ID` or `tiphys-ID-ROOM`.
    pub fn table(&self, room: &str) -> String {
        if room.is_empty() { format!("tiphys-{}", self.0) } else { format!("tiphys-{}-{room}", self.0) }
    }

    /// What the names of this node's links begin with.
    pub fn link_prefix(&self) -> String {
        format!("tp{}", digest(&self.0, 5))
    }

    /// The link of something on this node; 15 bytes, the most the kernel takes.
    pub fn link(&self, of: &str) -> String {
        format!("{}{}", self.link_prefix(), digest(of, 8))
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Letters and digits that stand for a text where a name has to be short (FNV-1a, base 32); at most
/// twelve.
pub fn digest(text: &str, len: usize) -> String {
    const ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (0..len).map(|n| char::from(ALPHABET[(hash >> (64 - 5 * (n + 1)) & 31) as usize])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_fit_the_kernel_and_differ_by_node() {
        let (a, b) = (NodeId::new("dev-node1"), NodeId::new("dev-node2"));
        assert_eq!(a.link("sandbox").len(), 15);
        assert!(a.link("sandbox").starts_with(&a.link_prefix()));
        assert_ne!(a.link_prefix(), b.link_prefix());
        assert_ne!(a.link("one"), a.link("two"));
        assert_eq!(NodeId::new("My.Node_1").table("proxy"), "tiphys-my-node-1-proxy");
    }
}
