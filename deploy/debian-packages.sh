#!/bin/sh
# Installs Debian packages that tests and images use, where that can be done: as root, with apt.
# Usage: sh deploy/debian-packages.sh PACKAGE...
# Never fails: what needs a missing package is skipped with its reason, and the last line here says what is missing.
# Starts no service: a policy-rc.d that forbids it stands in while packages are installed.
set -eu
policy=/usr/sbin/policy-rc.d

# The named packages that are not installed, in one line.
missing() {
    found=
    for package in "$@"; do
        status=$(dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null) || status=absent
        [ "$status" = installed ] || found="$found $package"
    done
    echo "${found# }"
}

fetch() {
    DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet=2 --no-install-recommends "$@" >> "$log" 2>&1
}

# stop_without PACKAGES WHY
stop_without() {
    echo "== not installed: $1 ($2); what needs them is skipped" >&2
    exit 0
}

command -v dpkg-query >/dev/null && command -v apt-get >/dev/null || stop_without "$*" "not a Debian system"
wanted=$(missing "$@")
[ -n "$wanted" ] || exit 0
[ "$(id -u)" = 0 ] || stop_without "$wanted" "not root; by hand: sudo apt-get install --no-install-recommends $wanted"

echo "== installing Debian packages: $wanted"
log=$(mktemp)
made=
cleanup() { rm -f "$log" $made; }
trap cleanup EXIT
trap 'exit 1' HUP INT TERM
if [ ! -e "$policy" ]; then
    made=$policy
    printf '#!/bin/sh\nexit 101\n' > "$policy"
    chmod 755 "$policy"
fi
# The package lists may be old or absent, and one name that apt does not know would stop the others.
# shellcheck disable=SC2086  # names, to be split
if ! fetch $wanted; then
    apt-get update --quiet=2 >> "$log" 2>&1 || true
    for package in $wanted; do fetch "$package" || true; done
    wanted=$(missing $wanted)
    [ -z "$wanted" ] || { tail -5 "$log" >&2; stop_without "$wanted" "apt-get could not: see above"; }
fi
