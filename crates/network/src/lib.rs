//! Pod links, addresses and routes.
