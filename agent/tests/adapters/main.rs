//! The adapters against a real kernel, in network namespaces that the tests make themselves.

mod hotplug;
mod lease;
mod ns;
mod pools;
mod systemd;
mod vips;
