"""What this server serves, as a value: the model and the limits.

Knows what ``DescribeServer`` answers. Does not know the wire or the engines.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from serving.api.limits import Limits
from serving.bundle import Manifest


@dataclass(frozen=True, slots=True)
class ServerDescription:
    manifest: Manifest
    model_digest: str
    """SHA-256 of the manifest, hex (``Bundle.digest``): stands in every result."""
    server_version: str
    limits: Limits
    libraries: Mapping[str, str]
    """Versions of what decodes and resizes pixels, by name."""
