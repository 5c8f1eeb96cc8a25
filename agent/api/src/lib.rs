//! The control API of failoverd as types: what `midctl`, the daemon and other clients exchange.
//!
//! Only serde types and pure functions live here, so that a client builds without netlink or disk code.
//!
//! ```text
//!   methods.rs  THE table of methods ──┬─▶ Handler, dispatch   (the daemon)
//!   events.rs   the table of events    ├─▶ Client              (midctl, tests)
//!   types.rs, fence.rs  what they carry └▶ METHODS             (core.get_methods, docs, help)
//!   params.rs   arguments, checked     schema.rs  types as JSON schema
//!   frame.rs    JSON-RPC 2.0 frames    errors.rs  error codes and their data
//! ```

pub mod date;
pub mod errors;
pub mod events;
pub mod fence;
pub mod frame;
pub mod methods;
pub mod params;
pub mod reasons;
pub mod schema;
pub mod types;

pub use fence::*;
pub use types::*;
