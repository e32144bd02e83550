"""The version of this package; its pyproject.toml reads it here."""

__version__ = "0.1.0"
