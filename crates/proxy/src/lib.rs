//! Services as nftables maps.
