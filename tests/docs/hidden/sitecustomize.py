"""Hides what an environment has beyond the extras of a command: a Python imports it at its start.

MEDIROUND_TEST_HIDDEN names the top-level modules that are not to be found, between commas.
"""

import os
import sys


class _Hiding:
    """A finder that does not find some modules; all else of it as it was."""

    def __init__(self, finder, names):
        self._finder, self._names = finder, names

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] in self._names:
            return None
        return self._finder.find_spec(fullname, path, target)

    def __getattr__(self, name):
        return getattr(self._finder, name)


_NAMES = frozenset(os.environ["MEDIROUND_TEST_HIDDEN"].split(","))
sys.meta_path[:] = [_Hiding(finder, _NAMES) for finder in sys.meta_path]
