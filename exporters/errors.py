"""What can be wrong with the sources of a bundle; each error says what to do about it.

Knows no file format and no network. A bundle that serving refuses is ``serving.bundle.BundleError``.
"""

from __future__ import annotations


class SourceError(Exception):
    """A source cannot become a bundle. The message names the file and the remedy."""


class NotACheckpointError(SourceError):
    """The directory holds no checkpoint in the published layout. Convert it, or point to the right directory."""


class UnsafeCheckpointError(SourceError):
    """A file wants to run code when it is loaded. Do not load it elsewhere either; ask where it came from."""


class IncompleteCheckpointError(SourceError):
    """Tensors are missing or do not fit. Save the checkpoint again, with all of its parts."""


class UnsupportedSourceError(SourceError):
    """The source is whole, but of a form that these exporters do not know. The message names the setting."""


class DiskFullError(SourceError):
    """Too little room for what is to be written. The message says how much is needed, and how much is free."""


class MissingPackageError(SourceError):
    """A source comes with a package that is not installed. The message names it."""
