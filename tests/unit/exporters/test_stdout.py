"""Standard output is the report's, whoever else writes to it. In processes of their own, with real descriptors."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os, subprocess, sys, time
from exporters.stdout import logs_on_stderr

early = sys.stdout
with logs_on_stderr():
    print("of Python")
    print("of a handler that has the stream", file=early, flush=True)
    os.write(1, b"of a library in C\\n")
    left = subprocess.Popen(["sh", "-c", "echo of a process; sleep 0.3; echo of a process that lingers"])
print("the report")
left.wait()
"""
FAILING = """
from exporters.stdout import logs_on_stderr

try:
    with logs_on_stderr():
        print("a log")
        raise OSError
except OSError:
    print("the report")
"""


def test_what_others_write_goes_to_standard_error() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout == "the report\n"
    assert sorted(done.stderr.splitlines()) == [
        "of Python",
        "of a handler that has the stream",
        "of a library in C",
        "of a process",
        "of a process that lingers",
    ]


def test_it_is_given_back_where_the_block_fails() -> None:
    done = subprocess.run([sys.executable, "-c", FAILING], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("the report\n", "a log\n")
