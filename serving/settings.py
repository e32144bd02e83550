"""Every setting of ``python -m serving``, by flag or environment, read once.

A flag ``--limits.max-rounds 16`` is ``MEDIROUND_LIMITS__MAX_ROUNDS=16`` in the environment; a flag wins.
Does not build anything.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Self

from pydantic import Field, model_validator
from pydantic_settings import SettingsConfigDict

from serving.listening import ADDRESS, MIB, ListeningSettings, Positive, Seconds, Section, is_loopback

ONNX = "onnx"


class LimitSettings(Section):
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
    max_concurrent_rounds: Positive = 512
    """Requests held at once, in work and waiting; more are refused with RESOURCE_EXHAUSTED and a retry delay."""
    max_concurrent_uploads: Positive = 8
    """Sessions opened at once; each may hold an image's bytes and pixels."""
    upload_timeout: Seconds = 60.0
    """Seconds from the first to the last chunk of an image."""


class AdmissionSettings(Section):
    """Who is worked for at once, and who waits."""

    places: Positive | None = None
    """Requests for rounds worked on at once: enough to keep the engines busy, and no more, for whoever has a place
    is beyond the queue's order. By default 4 with both engines in this process, 32 with one elsewhere.
    """
    max_wait: Seconds = 5.0
    """Seconds that an interactive request may be expected to wait; more is refused, with when to retry."""
    max_batch_wait: Seconds = 60.0


class EngineSettings(Section):
    """ONNX Runtime in this process."""

    threads: Positive = Field(default_factory=lambda: os.cpu_count() or 1)
    """Intra-op threads of each half."""
    embedding_bytes: Positive = 1024 * MIB
    prefix_cache_bytes: Annotated[int, Field(ge=0)] = 512 * MIB
    """Keys and values kept for later rounds of a dialogue; 0 keeps none. For ``--language onnx``."""


class LanguageTlsSettings(Section):
    """PEM files for ``--language grpcs://``; ``certificate`` and ``private_key`` for mutual TLS."""

    ca: Path | None = None
    """What the language servers' certificates must descend from; those of the system by default."""
    certificate: Path | None = None
    private_key: Path | None = None

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.certificate is None) != (self.private_key is None):
            raise ValueError("language-tls.certificate and language-tls.private-key go together")
        return self


class Settings(ListeningSettings):
    """Settings of ``python -m serving``. Research and education software: not for clinical use."""

    model_config = SettingsConfigDict(env_prefix="MEDIROUND_", cli_prog_name="python -m serving")

    listen: Annotated[str, Field(pattern=rf"^{ADDRESS}$")] = "127.0.0.1:50051"
    """HOST:PORT. Beyond loopback this needs TLS or --allow-insecure-bind. Port 0 takes a free one."""
    language: Annotated[str, Field(pattern=rf"^({ONNX}|grpcs?://{ADDRESS}(,{ADDRESS})*)$")] = ONNX
    """The language half: ``onnx`` in this process, or servers of it (``python -m serving.llm``) as
    grpc://HOST:PORT[,HOST:PORT...], grpcs:// with TLS. Beyond loopback this needs grpcs:// or
    --allow-insecure-language.
    """
    allow_insecure_language: bool = False
    """Reach language servers beyond loopback without TLS: anyone on the network can then read images."""
    language_tls: LanguageTlsSettings = LanguageTlsSettings()
    limits: LimitSettings = LimitSettings()
    admission: AdmissionSettings = AdmissionSettings()
    engines: EngineSettings = Field(default_factory=EngineSettings)

    @property
    def language_servers(self) -> tuple[str, ...]:
        """Their addresses; none when the language half is in this process."""
        return () if self.language == ONNX else tuple(self.language.partition("://")[2].split(","))

    @property
    def language_secure(self) -> bool:
        """Whether they are reached by TLS."""
        return self.language.startswith("grpcs://")

    @model_validator(mode="after")
    def _safe_language(self) -> Self:
        servers = self.language_servers
        if len(set(servers)) != len(servers):
            raise ValueError("language names an address twice")
        if not (self.language_secure or self.allow_insecure_language or all(map(is_loopback, servers))):
            raise ValueError(
                f"language={self.language} reaches beyond loopback: use grpcs://, or say --allow-insecure-language"
            )
        if self.language_tls != LanguageTlsSettings() and not self.language_secure:
            raise ValueError("language-tls needs --language grpcs://")
        return self
