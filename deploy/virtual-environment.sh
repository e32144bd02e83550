#!/bin/sh
# Makes the virtual environment DIRECTORY with PYTHON, unless it is there and fits.
# Usage: virtual-environment.sh PYTHON DIRECTORY [chosen]
# "chosen": PYTHON was named by whoever calls, so an environment of another Python is made anew. Else one that works is
# kept, whatever python3 is on this shell's path. One without pip, or of a Python that is gone or too old, never fits.
set -eu
python=$1 directory=$2 chosen=${3:-}
stamp=$directory/.python
identity='import os, pip, sys; assert sys.version_info >= (3, 11); print(*sys.version_info[:2], os.path.realpath(sys._base_executable))'
base=$(printf '%s' "$identity" | sed 's/ pip,//')

fail() { printf '%s\n' "error: $1: install one, or name it: make PYTHON=python3.12 ..." >&2; exit 1; }

have=$("$directory/bin/python" -c "$identity" 2>/dev/null) || have=
if [ -n "$have" ]; then
    if [ -z "$chosen" ] || [ "$have" = "$("$python" -c "$base" 2>/dev/null)" ]; then
        [ -e "$stamp" ] || touch -r "$directory/pyvenv.cfg" "$stamp"
        exit 0
    fi
fi
version=$("$python" -c 'import sys; print("%d.%d.%d" % sys.version_info[:3])' 2>/dev/null) \
    || fail "Python 3.11 or later is needed, and $python cannot be run"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
    || fail "Python 3.11 or later is needed, and $python is $version"
if [ -e "$directory" ]; then
    [ -e "$directory/pyvenv.cfg" ] || rmdir "$directory" 2>/dev/null \
        || { echo "error: $directory is no virtual environment: it is left as it is" >&2; exit 1; }
    echo "== $directory is of another Python, or incomplete: it is made anew"
    rm -rf "$directory"
fi
echo "== creating $directory with Python $version"
"$python" -m venv "$directory"
touch "$stamp"
