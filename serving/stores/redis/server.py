"""What a Redis must be, to keep sessions: looked at once, before anything is kept there.

Knows what a Redis tells of itself. Does not know sessions.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Literal

import redis

from serving.stores.kept.parts import Parts
from serving.stores.kept.records import VERSION
from serving.stores.redis import scripts

Durability = Literal["process", "power"]

LOG = logging.getLogger(__name__)
ENCODER = scripts.PREFIX + "encoder"
ENCODER_SECONDS = 90
"""How long it says what a server encodes by, after the server said so last."""
_SHOWN = 20
"""Characters of what was found there."""


class UnusableRedis(ValueError):
    """The Redis cannot hold sessions of this server without a change; the message says which."""


def check(client: redis.Redis, durability: Durability, parts: Parts, encoder: str | None) -> None:
    """Take an empty database, or one of ours; warn of what could lose sessions. ``encoder``: what this server's
    images are encoded by, where it must be the same in all servers at work here.

    Raises:
        UnusableRedis: it is another program's, of a newer version, of another key, a replica, a cluster; it cannot
            be reached or written; it is not as durable as it must be.
    """
    try:
        info: Mapping[str, Any] = client.info()
        _check_role(info)
        _warn(info)
        if durability == "power":
            _check_power(client)
        _take(client, parts)
        if encoder is not None:
            _agree(client, encoder)
    except redis.RedisError as error:
        raise UnusableRedis(f"--sessions.redis cannot be used: {_words(error)}") from None


def _check_role(info: Mapping[str, Any]) -> None:
    if info.get("cluster_enabled"):
        raise UnusableRedis("--sessions.redis must be one Redis, not a cluster")
    if info.get("role") != "master":
        raise UnusableRedis("--sessions.redis must be the primary, not a replica: nothing can be written there")


def _warn(info: Mapping[str, Any]) -> None:
    if not info.get("aof_enabled") and not info.get("connected_slaves"):
        LOG.warning("--sessions.redis has neither an append-only file nor a replica: kept sessions end with it")
    if 0 < info.get("maxmemory", 0) <= info.get("used_memory", 0):
        LOG.warning("--sessions.redis is full (maxmemory): kept sessions are read and closed, none is changed")
    policy = info.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        LOG.warning(
            "--sessions.redis has the policy %s: kept sessions may vanish; it should be noeviction", policy
        )


def _check_power(client: redis.Redis) -> None:
    """Raises UnusableRedis where an answer does not wait for the disk."""
    found = {**client.config_get("appendonly"), **client.config_get("appendfsync")}
    if found != {"appendonly": "yes", "appendfsync": "always"}:
        raise UnusableRedis(
            "--sessions.redis must have appendonly yes and appendfsync always for --sessions.durability power"
        )


def _take(client: redis.Redis, parts: Parts) -> None:
    schema, proof = client.register_script(scripts.OPEN)(args=[VERSION, parts.proof()])
    if not schema:
        raise UnusableRedis(
            "--sessions.redis is another program's database: it must be an empty one, or one of ours (/N chooses)"
        )
    if schema != b"%d" % VERSION:
        raise UnusableRedis(
            f"--sessions.redis has schema {schema.decode(errors='replace')[:20]}, this server reads {VERSION}: it "
            "must be served by the version that wrote it, or be another database"
        )
    if not parts.proves(proof):
        raise UnusableRedis(
            "--sessions.redis was written with another key, or without one: --sessions.key-file must be the same"
        )


class EncoderAgreement:
    """What servers at work here encode images by. Each says it again and again: one that was cut off for longer
    than ``ENCODER_SECONDS`` may find another's word in its place.
    """

    def __init__(self, encoder: str) -> None:
        """``encoder``: this server's."""
        self._encoder = self._seen = encoder

    def say(self, client: redis.Redis) -> None:
        """Say it, and log an error where it is another's by now; once each time that it changes."""
        first, seen = agreed_encoder(client, self._encoder), self._seen
        self._seen = first
        if first == seen:
            return
        if first == self._encoder:
            LOG.info("servers of --sessions.redis encode images alike again, by %s", first)
            return
        LOG.error(
            "--sessions.redis is shared with servers that encode images by %s, this one does by %s: one session's "
            "masks may differ by server; --engines.encoder must be the same in all",
            first[:_SHOWN],
            self._encoder,
        )


def agreed_encoder(client: redis.Redis, encoder: str) -> str:
    """What the servers at work here encode by: ``encoder``, unless another was first.

    A Redis that is full (maxmemory) takes no first word: then this server's is still to be said.
    """
    first = client.get(ENCODER)
    if first is None:
        try:
            client.set(ENCODER, encoder, ex=ENCODER_SECONDS, nx=True)
        except redis.OutOfMemoryError:
            return encoder
        first = client.get(ENCODER)
    if isinstance(first, bytes) and first != encoder.encode():
        return first.decode(errors="replace")
    client.expire(ENCODER, ENCODER_SECONDS)
    return encoder


def _agree(client: redis.Redis, encoder: str) -> None:
    first = agreed_encoder(client, encoder)
    if first != encoder:
        raise UnusableRedis(
            f"--sessions.redis is shared with servers that encode images by {first[:_SHOWN]}, this one would by "
            f"{encoder}: --engines.encoder must be the same in all. Set it to theirs here; or set it in all, stop "
            f"them, and begin again {ENCODER_SECONDS} s after the last has ended"
        )


def _words(error: redis.RedisError) -> str:
    """The library's words of a failed connection name the address; others might quote what is kept."""
    if isinstance(error, redis.OutOfMemoryError):
        return "it is full: its maxmemory must leave room"
    kind = type(error).__name__
    return f"{kind}: {error}" if isinstance(error, redis.ConnectionError | redis.TimeoutError) else kind
