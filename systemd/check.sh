#!/bin/sh
# Checks the units, the catalogue and, if one is named, a package: systemd/check.sh [PACKAGE.deb]
# A tool that isn't there is told by SKIPPED.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

has() {
	command -v "$1" >/dev/null && return
	echo "SKIPPED: systemd/check.sh: no $1 here: $2"
	return 1
}

if has systemd-analyze "units are not verified"; then
	cp "$here/failoverd.service" "$here/failover-active.target" "$work"
	# Where the program isn't installed any other stands for it: whether it is there isn't the question.
	[ -x /usr/sbin/failoverd ] || sed -i 's,^ExecStart=/usr/sbin/failoverd,ExecStart=/bin/true,' "$work/failoverd.service"
	said=$(systemd-analyze verify "$work/failoverd.service" "$work/failover-active.target" 2>&1) || {
		echo "$said"
		exit 1
	}
	[ -z "$said" ] || { echo "$said"; exit 1; }
	echo "units: verified"
	# Tenths: 50 is 5.0.
	systemd-analyze security --offline=yes --threshold=50 "$work/failoverd.service" >"$work/security" || {
		cat "$work/security"
		exit 1
	}
	tail -n 1 "$work/security"
fi

if has journalctl "the catalogue is not compiled"; then
	mkdir -p "$work/root/usr/lib/systemd/catalog" "$work/root/var/lib/systemd/catalog"
	cp "$here/failoverd.catalog" "$work/root/usr/lib/systemd/catalog"
	journalctl --root="$work/root" --update-catalog
	texts=$(journalctl --root="$work/root" --list-catalog | grep -c failoverd)
	[ "$texts" -eq "$(grep -c '^-- ' "$here/failoverd.catalog")" ]
	echo "catalogue: $texts texts"
fi

if has systemctl "presets are not tried"; then
	# Beside the preset that ZFS ships, which enables what ours disables.
	root="$work/preset" units=usr/lib/systemd/system presets=usr/lib/systemd/system-preset
	mkdir -p "$root/$units" "$root/$presets" "$root/etc/systemd/system"
	printf '[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n' >"$root/$units/zfs-import-cache.service"
	echo 'enable zfs-import-cache.service' >"$root/$presets/50-zfs.preset"
	cp "$here"/*.preset "$root/$presets"
	systemctl --root="$root" --quiet preset zfs-import-cache.service
	[ "$(systemctl --root="$root" is-enabled zfs-import-cache.service || true)" = disabled ]
	echo "presets: ZFS's import stays off"
fi

if [ $# -eq 0 ]; then
	echo "SKIPPED: systemd/check.sh: no package named: lintian not run"
elif has lintian "the package is not checked"; then
	lintian --fail-on error "$1"
	echo "lintian: no errors"
fi
