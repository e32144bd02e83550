"""What the Redis does for sessions: put, change, read, list, end. Whatever changes them is one script.

A session but for its image is one key, so that what is read of it is of one moment. Commands that read go
together, but not as a transaction (MULTI): a full Redis refuses those, whatever they do.

Knows fields of keys. Does not know what is held in memory, or when a session ends.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NoReturn

import redis

from serving.errors import NotFound, ServingError, Unavailable
from serving.history.record import SessionRecord
from serving.stores.endings import CLOSED, OLD, UNKNOWN, ended, used
from serving.stores.kept.codec import StoredImage
from serving.stores.kept.parts import Change, Parts
from serving.stores.kept.records import (
    CALLERS_FULL,
    CALLERS_MANY,
    CHANGED,
    FULL,
    MANY,
    Held,
    Listed,
    Stored,
    StoreLimits,
    age,
    exhausted,
)
from serving.stores.kept.seal import Damaged
from serving.stores.redis import scripts
from serving.stores.redis.connection import Connection
from serving.stores.redis.server import EncoderAgreement

GRACE_SECONDS = 600
"""Past its lifetime a session lies there for so long, until a server deletes it; then the Redis itself does."""
_PAGE = 100
_LISTED = ("opened", "version", "rounds", "header")


class RedisRecords:
    """The Records of one Redis."""

    def __init__(
        self,
        connection: Connection,
        parts: Parts,
        limits: StoreLimits,
        lifetime_s: float,
        encoder: str | None = None,
    ) -> None:
        """``encoder``: what this server encodes images by, said at each purge."""
        self._agreement = None if encoder is None else EncoderAgreement(encoder)
        self._connection, self._parts, self._limits = connection, parts, limits
        self._lifetime = math.ceil(lifetime_s)

    async def check_unused(self, session_id: str, caller: str) -> None:
        """See ``Records``."""
        name = self._parts.key(session_id, caller).hex()

        def read(client: redis.Redis) -> None:
            if client.exists(_key("session", name), _key("ended", name)):
                raise used()

        await self._connection.read(read)

    async def put(self, record: SessionRecord, opened: float, image: StoredImage | None) -> None:
        """See ``Records``."""
        limits, parts, token = self._limits, self._parts, secrets.token_bytes(16)
        key, owner = parts.key(record.session_id, record.caller), parts.owner(record.caller)
        ends = self._lifetime + GRACE_SECONDS
        most = (limits.max_bytes, limits.max_bytes_per_caller, limits.max_per_caller, limits.max_sessions)

        def write(client: redis.Redis) -> None:
            body = b"" if image is None else parts.image(key, image)
            names = (key.hex(), owner.hex(), parts.account(record).hex(), token)
            fields = {"header": parts.header(key, record), **_fields(record, parts.all_of(key, record))}
            when = (opened, record.opened_at, ends, body)
            self._check(_run(client, scripts.PUT, *names, *when, *most, *_flat(fields)))

        await self._connection.write(write)

    async def change(self, old: SessionRecord, new: SessionRecord) -> None:
        """See ``Records``."""
        limits, parts, token = self._limits, self._parts, secrets.token_bytes(16)
        key = parts.key(new.session_id, new.caller)

        def write(client: redis.Redis) -> None:
            change = parts.between(key, old, new)
            gone = list(_gone(change))
            head = (key.hex(), parts.account(new).hex(), token, old.version)
            most, fields = (limits.max_bytes, limits.max_bytes_per_caller), _flat(_fields(new, change))
            answer = _run(client, scripts.CHANGE, *head, *most, len(gone), *gone, *fields)
            if answer == b"gone":
                _raise_ended(client.get(_key("ended", key.hex())))
            self._check(answer)

        await self._connection.write(write)

    async def version(self, session_id: str, caller: str) -> int:
        """See ``Records``."""
        name = self._parts.key(session_id, caller).hex()

        def read(client: redis.Redis) -> tuple[Any, Any]:
            with client.pipeline(transaction=False) as both:
                both.hget(_key("session", name), "version")
                both.get(_key("ended", name))
                version, words = both.execute()
                return version, words

        version, words = await self._connection.read(read)
        if version is None:
            _raise_ended(words)
        return int(version)

    async def get(self, session_id: str, caller: str, *, image: bool) -> Stored:
        """See ``Records``."""
        key = self._parts.key(session_id, caller)
        name = key.hex()

        def read(client: redis.Redis) -> Stored:
            with client.pipeline(transaction=False) as all_of_it:
                all_of_it.hgetall(_key("session", name))
                all_of_it.get(_key("ended", name))
                if image:
                    all_of_it.get(_key("image", name))
                fields, words, *kept = all_of_it.execute()
            if not fields:
                _raise_ended(words)
            record = self._parts.header_of(key, fields[b"header"], caller, int(fields[b"version"]))
            pixels = self._parts.image_of(key, kept[0]) if kept and kept[0] is not None else None
            return Stored(self._with_parts(key, record, fields), float(fields[b"opened"]), pixels)

        return await self._connection.read(read)

    async def page(self, caller: str, after: tuple[float, str] | None, count: int) -> list[Listed]:
        """See ``Records``."""
        owner = _key("owner", self._parts.owner(caller).hex())
        until = "+inf" if after is None else repr(after[0])

        def read(client: redis.Redis) -> list[Listed]:
            page: list[Listed] = []
            for listed in self._listed(client, owner, until, caller):
                if len(page) >= count and listed.record.opened_at < page[-1].record.opened_at:
                    break  # those of one moment are in no order yet
                if after is None or age(listed.record) < after:
                    page.append(listed)
            return sorted(page, key=lambda each: age(each.record), reverse=True)[:count]

        return await self._connection.read(read)

    async def remove(self, session_id: str, caller: str) -> None:
        """See ``Records``."""
        await self._end(session_id, caller, "")

    async def end(self, session_id: str, caller: str, now: float) -> None:  # noqa: ARG002  # the Redis has a clock
        """See ``Records``."""
        words = await self._end(session_id, caller, "closed")
        if words != b"closed":
            _raise_ended(words)

    async def purge(self, opened_before: float, now: float) -> None:  # noqa: ARG002  # as above
        """See ``Records``. What ended is forgotten by the Redis."""
        try:
            while await self._connection.write(
                lambda client: int(_run(client, scripts.PURGE, opened_before, self._lifetime))
            ):
                pass
        finally:
            if self._agreement is not None:
                await self._connection.write(self._agreement.say)

    async def held(self) -> Held:
        """See ``Records``: bytes of sessions, without what the Redis takes for their keys."""

        def read(client: redis.Redis) -> Held:
            with client.pipeline(transaction=False) as both:
                both.zcard(scripts.PREFIX + "opened")
                both.hget(scripts.ROOT, "bytes")
                sessions, nbytes = both.execute()
            return Held(int(sessions), int(nbytes or 0))

        return await self._connection.read(read)

    async def close(self) -> None:
        """See ``Records``."""
        await self._connection.close()

    async def _end(self, session_id: str, caller: str, words: str) -> bytes:
        name, owner = self._parts.key(session_id, caller).hex(), self._parts.owner(caller).hex()
        return await self._connection.write(
            lambda client: bytes(_run(client, scripts.END, name, owner, words, self._lifetime))
        )

    def _check(self, answer: bytes) -> None:
        """Raises what a script's answer means."""
        limits = self._limits
        refusals: dict[bytes, ServingError] = {
            b"used": used(),
            b"changed": Unavailable(CHANGED, 0.1),
            b"full": exhausted(FULL),
            b"many": exhausted(MANY, limits.max_sessions),
            b"callers full": exhausted(CALLERS_FULL, limits.max_bytes_per_caller),
            b"callers many": exhausted(CALLERS_MANY, limits.max_per_caller),
        }
        if answer != b"done":
            raise refusals[answer]

    def _listed(self, client: redis.Redis, owner: str, until: str, caller: str) -> Iterator[Listed]:
        """The latest opened first; without those that end meanwhile."""
        start = 0
        while found := client.zrevrangebyscore(owner, until, "-inf", start=start, num=_PAGE):
            start += len(found)
            names = [bytes(name).decode() for name in found]  # type: ignore[arg-type]  # of any form of answer
            with client.pipeline(transaction=False) as rows:
                for name in names:
                    rows.hmget(_key("session", name), *_LISTED)
                bodies = rows.execute()
            for name, (opened, version, rounds, header) in zip(names, bodies, strict=True):
                if header is not None:
                    record = self._parts.header_of(bytes.fromhex(name), header, caller, int(version))
                    yield Listed(record, int(rounds), float(opened))

    def _with_parts(self, key: bytes, record: SessionRecord, fields: Mapping[bytes, bytes]) -> SessionRecord:
        masks = {bytes.fromhex(field[1:].decode()): body for field, body in fields.items() if field[:1] == b"m"}
        count, order = int(fields[b"rounds"]), fields[b"order"].decode().split()
        rounds = [fields[b"r%d" % number] for number in range(count)]
        requests = {bytes.fromhex(name): fields[b"q" + name.encode()] for name in order}
        if len(requests) != sum(field[:1] == b"q" for field in fields):
            raise Damaged
        return self._parts.whole(key, record, masks, rounds, requests)


def _fields(record: SessionRecord, change: Change) -> dict[str, bytes | str | int]:
    """Of the session's hash, what is put."""
    return {
        "version": record.version,
        "rounds": len(record.rounds),
        "order": " ".join(name.hex() for name in change.order),
        **{f"m{digest.hex()}": body for digest, body in change.masks.items()},
        **{f"r{number}": body for number, body in change.rounds.items()},
        **{f"q{name.hex()}": body for name, body in change.requests.items()},
    }


def _gone(change: Change) -> Iterator[str]:
    yield from (f"m{digest.hex()}" for digest in change.masks_gone)
    yield from (f"r{number}" for number in change.rounds_gone)
    yield from (f"q{name.hex()}" for name in change.requests_gone)


def _flat(fields: Mapping[str, bytes | str | int]) -> Iterable[bytes | str | int]:
    return (part for item in fields.items() for part in item)


def _run(client: redis.Redis, script: str, *arguments: bytes | str | float) -> Any:
    """What a script answers: sent by its digest, whole where the Redis does not know it yet."""
    return client.register_script(script)(args=arguments)


def _key(kind: str, name: str) -> str:
    return f"{scripts.PREFIX}{kind}:{name}"


def _raise_ended(words: bytes | str | None) -> NoReturn:
    if words is None or words == b"gone":
        raise NotFound(UNKNOWN)
    raise ended(CLOSED if words == b"closed" else OLD)
