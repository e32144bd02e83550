"""Settings of where sessions are kept.

Knows which of them go together. Builds nothing.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, model_validator

from serving.rpc.settings import (
    MIB,
    Bytes,
    PeerTlsSettings,
    Positive,
    Seconds,
    SettingsSection,
    is_loopback,
    peer_address,
)

_REDIS = re.compile(r"rediss?://(?P<server>[^/@?]+)(/\d{1,5})?|unix:///[^@?]+(\?db=\d{1,5})?")
_OF_REDIS = ("redis", "redis_user", "redis_password_file", "redis_patience", "tls", "allow_insecure_redis")


def _redis(text: str) -> str:
    match = _REDIS.fullmatch(text)
    if match is None:  # it may hold a password: it is not repeated
        raise ValueError(
            "must be redis://HOST:PORT/N, rediss://HOST:PORT/N with TLS, or unix:///PATH?db=N, without user and "
            "password"
        )
    if match["server"]:
        peer_address(match["server"])
    return text


class SessionSettings(SettingsSection):
    """Where sessions are that their callers ask to keep; all others are in memory, whatever is set."""

    store: Literal["memory", "sqlite", "redis"] = "memory"
    """``memory``: they end as all others do. ``sqlite``: they are in a file, ``redis``: in a Redis, until
    ``limits.session-lifetime``.
    """
    path: Path | None = None
    """The file, for ``sqlite``; made where there is none, readable by its owner alone."""
    redis: Annotated[str, AfterValidator(_redis)] | None = None
    """The Redis, for ``redis``: redis://HOST:PORT/N, where N is a database of its own, rediss:// with TLS, or
    unix:///PATH?db=N. Beyond loopback this needs rediss:// or allow-insecure-redis. Needs the extra ``redis``.
    """
    redis_user: str | None = None
    """Name by which this server is known to the Redis; by default its default user's."""
    redis_password_file: Path | None = None
    """File of the password for the Redis, in its first line."""
    redis_patience: Seconds = 2.0
    """Seconds to wait for the Redis; a request that needs it is refused then, and the next for 5 s at once."""
    tls: PeerTlsSettings = PeerTlsSettings()
    """TLS towards the Redis, for rediss://."""
    allow_insecure_redis: bool = False
    """Reach a Redis beyond loopback without TLS: anyone on the network can then read its password and sessions."""
    durability: Literal["process", "power"] = "process"
    """What loses no answered round: the end of the process (kill -9, too), or also that of the power (slower). A
    Redis must be set so, too: ``power`` needs its appendfsync always.
    """
    max_bytes: Bytes = 4096 * MIB
    """Bytes that all kept sessions may take, of a file its largest size; beyond it their rounds are refused."""
    max_sessions: Positive = 100_000
    """Sessions that are kept, of all callers together."""
    max_bytes_per_caller: Bytes = 1024 * MIB
    """Bytes that the kept sessions of one caller may take: of one connection, of callers without a certificate."""
    max_per_caller: Positive = 1000
    """Sessions that are kept of one caller: of one connection, of callers without a certificate."""
    key_file: Path | None = None
    """File of 64 hexadecimal digits, the key by which words, masks and images are encrypted; without it words and
    masks lie open in the store. Needs the extra ``encryption``.
    """
    images: Literal["none", "encrypted"] = "none"
    """Whether images are kept, too. ``none``: a caller sends the image again to take a parked session up.
    ``encrypted`` needs key-file.
    """

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if (self.store == "sqlite") != (self.path is not None):
            raise ValueError("path must be given with store sqlite, and left out with memory and redis")
        if (self.store == "redis") != (self.redis is not None):
            raise ValueError("redis must be given with store redis, and left out with memory and sqlite")
        if self.store == "memory" and self.model_fields_set - {"store", "path", "redis"}:
            raise ValueError("all but store must be left out unless it is sqlite or redis")
        if self.store == "sqlite" and self.model_fields_set & set(_OF_REDIS) - {"redis"}:
            raise ValueError("redis-*, tls and allow-insecure-redis must be left out unless store is redis")
        if self.images == "encrypted" and self.key_file is None:
            raise ValueError("key-file must be given with images encrypted")
        return self

    @model_validator(mode="after")
    def _safe_redis(self) -> Self:
        scheme, _, rest = (self.redis or "unix://").partition("://")
        if self.tls != PeerTlsSettings() and scheme != "rediss":
            raise ValueError("tls must be left out unless redis is rediss://")
        if scheme == "redis" and not (self.allow_insecure_redis or is_loopback(rest.partition("/")[0])):
            raise ValueError("redis reaches beyond loopback: it must be rediss://, or allow-insecure-redis set")
        return self
