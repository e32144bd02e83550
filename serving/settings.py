"""Every setting of ``python -m serving``, by flag or environment, read once.

A flag ``--limits.max-rounds 16`` is ``MEDIROUND_LIMITS__MAX_ROUNDS=16`` in the environment; a flag wins.
Does not build anything.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator
from pydantic_settings import SettingsConfigDict

from serving.rpc.settings import (
    MIB,
    Bytes,
    ListenAddress,
    PeerTlsSettings,
    Positive,
    Seconds,
    ServerSettings,
    SettingsSection,
    SomeBytes,
    is_loopback,
    peer_address,
    refuse_unused,
)
from serving.runtime.cpus import usable_cpus
from serving.sessions.settings import SessionSettings

ONNX = "onnx"
SLAB_BYTES = 256 * MIB


def _language(text: str) -> str:
    scheme, separator, servers = text.partition("://")
    if text != ONNX and (scheme not in {"grpc", "grpcs"} or not separator):
        raise ValueError(f"must be {ONNX}, or grpc://HOST:PORT[,HOST:PORT...], or grpcs:// with TLS")
    for server in servers.split(",") if separator else ():
        peer_address(server)
    return text


def _version(text: str) -> str:
    if not re.fullmatch(r"[1-9][0-9]{0,8}", text):
        raise ValueError("must be the number of a version, from 1")
    return text


def _vision(text: str) -> str:
    scheme, separator, server = text.partition("://")
    if text != ONNX and (scheme not in {"triton", "tritons"} or not separator):
        raise ValueError(f"must be {ONNX}, or triton://HOST:PORT, or tritons:// with TLS")
    if separator:
        peer_address(server)
    return text


class LimitSettings(SettingsSection):
    """What one request, session or server may hold. A refused call's error names the limit that it reached."""

    max_image_bytes: Bytes = 64 * MIB
    """Largest image as sent, in bytes: the file, or the raw pixels."""
    max_image_pixels: Bytes = 4096 * 4096
    """Largest image in pixels (height times width); checked before anything is decoded."""
    max_aspect_ratio: Positive = 20
    """Longest side of an image over its shortest side."""
    max_rounds: Positive = 32
    """Rounds of one session."""
    max_question_bytes: Positive = 2048
    """Longest question, and longest forced answer, in bytes of UTF-8."""
    max_sessions: Positive = 256
    """Open sessions of all callers together."""
    max_session_bytes: Bytes = 2048 * MIB
    """Bytes of images and masks that all open sessions together may hold."""
    max_sessions_per_caller: Positive = 192
    """Open sessions of one caller: of one connection, of callers without a certificate."""
    max_session_bytes_per_caller: Bytes = 1536 * MIB
    """Bytes of images and masks that the open sessions of one caller may hold: of one connection, of callers
    without a certificate.
    """
    max_upload_bytes_held: Bytes = 512 * MIB
    """Bytes of decoded images kept so that callers may open them again by content hash."""
    session_idle_timeout: Seconds = 1800.0
    """Seconds without a request after which a session expires, and an image kept for opening again is dropped."""
    session_gives_way_after: Seconds = 60.0
    """Seconds without a request after which a session makes room for a new one when no more fit; the longest idle
    first, the same caller's before others'. A caller's own of which nothing was asked yet gives way after 1 s.
    """
    session_lifetime: Seconds = 30 * 24 * 3600.0
    """Seconds from its opening after which a session ends, however much it is used."""
    max_given_mask_bytes: Bytes = 2 * MIB
    """Largest mask that a caller gives, in bytes as it is sent."""
    max_concurrent_rounds: Positive = 512
    """Requests for rounds held at once, running or waiting; more are refused with RESOURCE_EXHAUSTED and a retry
    delay.
    """
    max_concurrent_uploads: Positive = 8
    """Images decoded and prepared at once; others wait, interactive first. So many of the largest images may be
    arriving or waiting together (at least 2), half of their bytes for one caller.
    """
    upload_timeout: Seconds = 60.0
    """Seconds that an image may take to arrive, from the first to the last chunk."""
    min_upload_rate: Positive = 64 << 10
    """Bytes a second, on average, at which an image must arrive; a slower upload is ended."""


class AdmissionSettings(SettingsSection):
    """Admission: which requests run now, and how long the others may wait."""

    concurrency: Positive | None = None
    """Requests for rounds that run at once: enough to keep the engines busy and no more, because a running request
    is beyond the queue's order. By default 4 with both halves in this process, 32 with one in another.
    """
    encode_concurrency: Positive | None = None
    """Of these, the most that may need their image encoded, until it is; batch requests leave one of these places
    free, if there are two. By default 2 with the vision half in this process, 8 with Triton: more than the encoder
    takes at once, so that the next is ready.
    """
    max_wait: Seconds = 0.5
    """Seconds that an interactive request may be expected to wait; beyond that it is refused, with a time to
    retry. Choose the latency objective less the latency of a request on an idle server.
    """
    max_batch_wait: Seconds = 60.0
    """Seconds that a batch request may be expected to wait; beyond that it is refused, with a time to retry."""
    encode_on_open: Literal["auto", "never"] = "auto"
    """When an image is encoded. ``auto``: once an interactive opening has decoded it, behind all that waits, and
    read by the language half once the session is there; images without a question yet may take half of
    ``engines.embedding-bytes`` so. ``never``: when its first question comes.
    """


class EngineSettings(SettingsSection):
    """The halves that are in this process."""

    threads: Positive = Field(default_factory=usable_cpus)
    """Threads of each half within an operator (intra-op). By default the CPUs that this process may use: affinity
    and control group.
    """
    encoder: Literal["auto", "onnx", "openvino-f32", "openvino-bf16"] = "auto"
    """What runs the image encoder on a CPU: ONNX Runtime, or OpenVINO (extra ``openvino``). ``auto``: the faster
    of ``onnx`` and ``openvino-f32``, measured at the first start with ``engines.cache``; ``onnx`` without it. bf16
    is the fast one, for bundles whose masks bear it, and needs a CPU that has it (docs/vision.md).
    """
    cache: Path | None = None
    """The directory in which ``--engines.encoder auto`` keeps what it has measured, made where there is none."""
    provider: Literal["cpu", "cuda"] = "cpu"
    """What runs the halves that are in this process. cuda needs ``onnxruntime-gpu`` in place of ``onnxruntime``; a
    start without it, or without a GPU, is refused.
    """
    embedding_bytes: Bytes = 1024 * MIB
    """Bytes of image embeddings held for later rounds, in shared memory and in this process together."""
    prefix_cache_bytes: SomeBytes = 512 * MIB
    """Bytes of attention keys and values kept for later rounds of a dialogue; 0: none. For ``--language onnx``."""


class TritonSettings(SettingsSection):
    """The vision half on Triton, for ``--vision triton://``."""

    version: Annotated[str, AfterValidator(_version)] = "1"
    """Version of both Triton models to call."""
    admin_key: SecretStr | None = None
    """Admin key that Triton asks for before it maps memory (its --grpc-restricted-protocol). Better set by
    environment. Not empty.
    """
    slab_bytes: SomeBytes | None = None
    """Of ``engines.embedding_bytes``, the bytes in shared memory that Triton maps; 0: all embeddings go by gRPC.
    By default 256 MiB when Triton is on loopback, else 0. Needs the same /dev/shm as Triton.
    """
    mask_slots: Positive = 16
    """Shared-memory slots for masks: concurrent decodes beyond this return masks by gRPC. Needs slab_bytes > 0."""
    patience: Seconds = 30.0
    """Seconds to wait for Triton's reply before the request counts as lost; two thirds of it are the queue
    timeout.
    """


class Settings(ServerSettings):
    """Settings of ``python -m serving``. Research and education software: not for clinical use."""

    model_config = SettingsConfigDict(env_prefix="MEDIROUND_", cli_prog_name="python -m serving")

    listen: ListenAddress = "127.0.0.1:50051"
    """HOST:PORT. Beyond loopback this needs TLS or --allow-insecure-bind. Port 0 takes a free one."""
    language: Annotated[str, AfterValidator(_language)] = ONNX
    """The language half: ``onnx`` in this process, or servers of it (``python -m serving.llm``) as
    grpc://HOST:PORT[,HOST:PORT...], grpcs:// with TLS. Beyond loopback this needs grpcs:// or
    --allow-insecure-language.
    """
    allow_insecure_language: bool = False
    """Reach language servers beyond loopback without TLS: anyone on the network can then read images."""
    language_tls: PeerTlsSettings = PeerTlsSettings()
    """TLS towards the language servers, for ``--language grpcs://``."""
    vision: Annotated[str, AfterValidator(_vision)] = ONNX
    """The vision half: ``onnx`` in this process, or a Triton server as triton://HOST:PORT (its gRPC port), tritons://
    with TLS. Beyond loopback this needs tritons:// or --allow-insecure-vision.
    """
    allow_insecure_vision: bool = False
    """Reach Triton beyond loopback without TLS: anyone on the network can then read images and masks."""
    vision_tls: PeerTlsSettings = PeerTlsSettings()
    """TLS towards Triton, for ``--vision tritons://``."""
    triton: TritonSettings = TritonSettings()
    limits: LimitSettings = LimitSettings()
    admission: AdmissionSettings = AdmissionSettings()
    engines: EngineSettings = Field(default_factory=EngineSettings)
    sessions: SessionSettings = SessionSettings()

    @property
    def language_servers(self) -> tuple[str, ...]:
        """Their addresses; none when the language half is in this process."""
        return () if self.language == ONNX else tuple(self.language.partition("://")[2].split(","))

    @property
    def language_secure(self) -> bool:
        """Whether they are reached by TLS."""
        return self.language.startswith("grpcs://")

    @property
    def triton_server(self) -> str | None:
        """Triton's address; None when the vision half is in this process."""
        return None if self.vision == ONNX else self.vision.partition("://")[2]

    @property
    def vision_secure(self) -> bool:
        """Whether it is reached by TLS."""
        return self.vision.startswith("tritons://")

    @property
    def slab_bytes(self) -> int:
        """Of embeddings, in memory that Triton maps."""
        server, size = self.triton_server, self.triton.slab_bytes
        if server is None:
            return 0
        return min(self.engines.embedding_bytes, SLAB_BYTES * is_loopback(server) if size is None else size)

    @model_validator(mode="after")
    def _taken_by_the_halves(self) -> Self:
        if self.vision == ONNX:
            refuse_unused("triton", self.triton, "--vision is triton:// or tritons://")
        elsewhere = self.language != ONNX
        if elsewhere and "prefix_cache_bytes" in self.engines.model_fields_set:
            raise ValueError("--engines.prefix-cache-bytes must be left out unless --language is onnx")
        if elsewhere and self.vision != ONNX:
            for name in sorted({"provider", "threads"} & self.engines.model_fields_set):
                raise ValueError(f"--engines.{name} must be left out unless a half is in this process")
        return self

    @model_validator(mode="after")
    def _encoder_here(self) -> Self:
        here = self.vision == ONNX and self.engines.provider == "cpu"
        if self.engines.encoder not in {"auto", ONNX} and not here:
            raise ValueError(
                f"--engines.encoder {self.engines.encoder} must be left out unless --vision is onnx on a CPU"
            )
        if self.engines.cache is not None and not (here and self.engines.encoder == "auto"):
            raise ValueError(
                "--engines.cache must be left out unless --engines.encoder is auto and --vision is onnx on a CPU"
            )
        return self

    @model_validator(mode="after")
    def _safe_vision(self) -> Self:
        server = self.triton_server
        if server and not (self.vision_secure or self.allow_insecure_vision or is_loopback(server)):
            raise ValueError(
                f"--vision {self.vision} reaches beyond loopback: it must be tritons://, or "
                "--allow-insecure-vision set"
            )
        if self.triton.admin_key is not None and not self.triton.admin_key.get_secret_value():
            raise ValueError("--triton.admin-key must not be empty: the key that Triton asks for, or left out")
        if self.vision_tls != PeerTlsSettings() and not self.vision_secure:
            raise ValueError("--vision-tls must be left out unless --vision is tritons://")
        return self

    @model_validator(mode="after")
    def _safe_language(self) -> Self:
        servers = self.language_servers
        if len(set(servers)) != len(servers):
            raise ValueError("--language must name each address once")
        if not (self.language_secure or self.allow_insecure_language or all(map(is_loopback, servers))):
            raise ValueError(
                f"--language {self.language} reaches beyond loopback: it must be grpcs://, or "
                "--allow-insecure-language set"
            )
        if self.language_tls != PeerTlsSettings() and not self.language_secure:
            raise ValueError("--language-tls must be left out unless --language is grpcs://")
        return self
