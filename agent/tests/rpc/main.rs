//! The control API: frames, sessions, the socket, malformed input, and the document of the methods.

mod document;
mod frames;
mod fuzz;
mod pretend;
mod socket;
