#!/bin/sh
# Builds the package with cargo-deb (`cargo install cargo-deb`) and prints its path. Both programs are built first:
# the package holds midctl too, and cargo-deb builds only the package it is asked for.
set -eu
cd "$(dirname "$0")/.."
cargo build --release --locked -p failoverd -p midctl
exec cargo deb --no-build --no-strip --locked -p failoverd "$@"
