"""The rule that no option is ignored in silence, for the commands' arguments.

Knows parsed arguments, where None stands for an option that was not given. Does not know what an option is for.
"""

from __future__ import annotations

import argparse

from exporters.errors import SourceError


def refuse_unused(given: argparse.Namespace, *names: str, unless: str) -> None:
    """Raises SourceError when one of the options ``names`` was given: ``unless`` is what it would take."""
    for name in names:
        if getattr(given, name) is not None:
            raise SourceError(f"--{name.replace('_', '-')} must be left out unless {unless}")
