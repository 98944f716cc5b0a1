//! The protocols of exec, attach and port-forward over one upgraded HTTP connection.
//!
//! Two transports carry the same thing. SPDY/3.1 multiplexes streams named by headers
//! ([`spdy`], protocols `channel.k8s.io` to `v4.channel.k8s.io` and `portforward.k8s.io`). WebSocket
//! prefixes every message with a channel number (`channel.k8s.io`, `v4.channel.k8s.io`,
//! `v5.channel.k8s.io` and their `base64.` forms), or tunnels SPDY (`SPDY/3.1+portforward.k8s.io`, which
//! kubectl asks for first). [`negotiate`] chooses from a request's headers and says what to answer; after
//! the upgrade [`serve_command`] or [`serve_port_forward`] runs to the end of the connection, within the
//! caller's task.

mod channels;
mod command;
mod negotiate;
mod port_forward;
pub mod spdy;
mod tunnel;
mod websocket;

pub use command::{CommandOptions, serve_command};
pub use negotiate::{Accepted, Purpose, Rejected, negotiate};
pub use port_forward::serve_port_forward;
