//! Tests on real machines and in the virtual lab.
//!
//! They write to disks and reset machines, so nothing runs without a consent file that names this very machine and
//! every disk that may be destroyed: see [`gate`]. Whether a pair lost or doubled what it had acknowledged is judged by
//! the [`oracle`]; whether a target keeps the rules of reservations, by [`reservations`].

pub mod gate;
pub mod kernel_view;
pub mod oracle;
pub mod reservations;
