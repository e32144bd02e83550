#!/bin/sh
# Runs a command where no network is but the loopback: the Orthanc that its tests start listens on every address.
# Usage: sh deploy/loopback-only.sh COMMAND...
# Where that cannot be made, the command runs as it is: its tests say so, and are skipped.
set -eu
for alone in "unshare --net" "unshare --map-root-user --net"; do
    if $alone ip link set lo up 2>/dev/null; then
        # shellcheck disable=SC2016  # the inner shell's
        exec $alone sh -c 'ip link set lo up && exec "$@"' sh "$@"
    fi
done
echo "== no network namespace can be made here: neither as root nor by 'unshare --map-root-user --net'" >&2
exec "$@"
