//! Pod links, addresses and routes; nodes as namespaces; and the nf_tables client the service proxy uses.

mod netlink;
pub mod netns;
pub mod nft;
