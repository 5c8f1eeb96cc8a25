#!/bin/sh
# Builds the package with cargo-deb (`cargo install cargo-deb`) and prints its path. Both programs are built first:
# the package holds midctl too, and cargo-deb builds only the package it is asked for.
# DEB_PROFILE=dev: from the programs of `cargo build`, for trials. Options go to cargo-deb, as `--deb-revision 2`.
set -eu
cd "$(dirname "$0")/.."
profile=${DEB_PROFILE:-release}
cargo build --profile "$profile" --locked -p failoverd -p midctl
case "$profile" in
dev) set -- --fast --strip "$@" ;;
*) set -- --no-strip "$@" ;;
esac
exec cargo deb --profile "$profile" --no-build --locked -p failoverd "$@"
