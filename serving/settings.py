"""Every setting of the server, by flag or environment, read once.

A flag ``--limits.max-rounds 16`` is ``MEDIROUND_LIMITS__MAX_ROUNDS=16`` in the environment; a flag wins.
Does not build anything.
"""

from __future__ import annotations

import ipaddress
import os
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0)]
MIB = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class TlsSettings(_Section):
    """PEM files. With ``client_ca`` every client must present a certificate that it signed."""

    certificate: Path | None = None
    private_key: Path | None = None
    client_ca: Path | None = None

    @property
    def enabled(self) -> bool:
        return self.certificate is not None

    @model_validator(mode="after")
    def _whole(self) -> TlsSettings:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("tls.certificate and tls.private-key go together")
        if self.client_ca is not None and self.certificate is None:
            raise ValueError("tls.client-ca needs tls.certificate and tls.private-key")
        return self


class LimitSettings(_Section):
    """What one request, session or server may hold. Each is named in the error of whoever reaches it."""

    max_image_bytes: Positive = 64 * MIB
    max_image_pixels: Positive = 4096 * 4096
    max_aspect_ratio: Positive = 20
    max_rounds: Positive = 32
    max_question_bytes: Positive = 2048
    max_sessions: Positive = 256
    max_session_bytes: Positive = 2048 * MIB
    """Of all sessions together: images and masks."""
    max_upload_bytes_held: Positive = 512 * MIB
    """Decoded images kept so that a caller may open again by content hash."""
    session_idle_timeout: Seconds = 1800.0
    max_concurrent_rounds: Positive = 64
    """Admitted at once; more are refused with RESOURCE_EXHAUSTED and a retry delay."""
    max_concurrent_uploads: Positive = 8
    """Sessions opened at once; each may hold an image's bytes and pixels."""
    upload_timeout: Seconds = 60.0
    """Seconds from the first to the last chunk of an image."""


class EngineSettings(_Section):
    """ONNX Runtime in this process, for both halves."""

    threads: Positive = Field(default_factory=lambda: os.cpu_count() or 1)
    """Intra-op threads of each half."""
    embedding_bytes: Positive = 1024 * MIB
    prefix_cache_bytes: Annotated[int, Field(ge=0)] = 512 * MIB
    """Keys and values kept for later rounds of a dialogue; 0 keeps none."""


class Settings(BaseSettings):
    """Settings of ``python -m serving``. Research and education software: not for clinical use."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        env_prefix="MEDIROUND_",
        env_nested_delimiter="__",
        cli_prog_name="python -m serving",
        cli_kebab_case=True,
        cli_implicit_flags=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
        use_attribute_docstrings=True,
    )

    bundle: Path
    """Directory of the model bundle."""
    listen: Annotated[str, Field(pattern=r"^(\[[0-9a-fA-F:]+\]|[^:\[\]]+):\d{1,5}$")] = "127.0.0.1:50051"
    """HOST:PORT. Beyond loopback this needs TLS or --allow-insecure-bind. Port 0 takes a free one."""
    allow_insecure_bind: bool = False
    """Listen beyond loopback without TLS: anyone on the network can then read images and masks."""
    drain_seconds: Seconds = 30.0
    """How long rounds in flight may take to finish after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    tls: TlsSettings = TlsSettings()
    limits: LimitSettings = LimitSettings()
    engines: EngineSettings = Field(default_factory=EngineSettings)

    @model_validator(mode="after")
    def _safe_bind(self) -> Settings:
        host = self.listen.rpartition(":")[0].strip("[]")
        if not (self.tls.enabled or self.allow_insecure_bind or _is_loopback(host)):
            raise ValueError(
                f"listen={self.listen} reaches beyond loopback: give --tls.certificate and --tls.private-key, "
                "or say --allow-insecure-bind"
            )
        return self


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
