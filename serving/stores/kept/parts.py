"""A session in parts, each a sealed body under a sealed name: what any place for kept sessions holds of it.

Knows what of two records differs, and how the whole is put together again. Does not know where parts lie.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from serving.domain import Mask
from serving.history import changes
from serving.history.record import SessionRecord
from serving.stores.kept import codec
from serving.stores.kept.codec import StoredImage
from serving.stores.kept.seal import Damaged, Seal


@dataclass(frozen=True, slots=True)
class Change:
    """Bodies to put and to take away, so that one record takes another's place."""

    masks: Mapping[bytes, bytes]
    """By digest."""
    masks_gone: Sequence[bytes]
    rounds: Mapping[int, bytes]
    """By number."""
    rounds_gone: range
    requests: Mapping[bytes, bytes]
    """By name, in their order, behind those that stay."""
    requests_gone: Sequence[bytes]
    order: tuple[bytes, ...]
    """Names of all requests that there are then, the latest last."""


class Parts:
    """Names and bodies, by one seal."""

    def __init__(self, seal: Seal) -> None:
        self._seal = seal

    def key(self, session_id: str, caller: str) -> bytes:
        """The session's name."""
        return self._seal.name("session", caller, session_id)

    def owner(self, caller: str) -> bytes:
        return self._seal.name("owner", caller)

    def account(self, record: SessionRecord) -> bytes:
        """Of whose budget it takes."""
        return self._seal.name("account", *record.payer)

    def header(self, key: bytes, record: SessionRecord) -> bytes:
        """What never changes of it, but its image."""
        return self._seal.closed(codec.header_bytes(record), "header", key)

    def header_of(self, key: bytes, body: bytes, caller: str, version: int) -> SessionRecord:
        """The session without its rounds and requests. Raises Damaged."""
        return codec.header_of(self._seal.opened(body, "header", key), caller, version)

    def image(self, key: bytes, image: StoredImage) -> bytes:
        return self._seal.closed(codec.image_bytes(image), "image", key)

    def image_of(self, key: bytes, body: bytes) -> StoredImage:
        """Raises Damaged."""
        return codec.image_of(self._seal.opened(body, "image", key))

    def all_of(self, key: bytes, record: SessionRecord) -> Change:
        """All parts of a new session."""
        return self.between(key, SessionRecord(record.session_id, record.caller, record.size), record)

    def between(self, key: bytes, old: SessionRecord, new: SessionRecord) -> Change:
        """What is the same object in both is not made again."""
        masks, before = _masks(new), _masks(old)
        known, earlier = dict(enumerate(old.rounds)), {each.key.id: each for each in old.requests}
        requests = [each for each in new.requests if earlier.get(each.key.id) is not each]
        order = tuple(self._request(each.key.id) for each in new.requests)
        return Change(
            masks={
                d: self._seal.closed(codec.mask_bytes(masks[d]), "mask", key, d) for d in masks.keys() - before
            },
            masks_gone=list(before.keys() - masks),
            rounds={
                number: self._seal.closed(codec.round_bytes(each), "round", key, str(number))
                for number, each in enumerate(new.rounds)
                if known.get(number) is not each
            },
            rounds_gone=range(len(new.rounds), len(old.rounds)),
            requests={
                (name := self._request(each.key.id)): self._seal.closed(
                    codec.request_bytes(each), "request", key, name
                )
                for each in requests
            },
            requests_gone=list({self._request(name) for name in earlier} - set(order)),
            order=order,
        )

    def whole(
        self,
        key: bytes,
        header: SessionRecord,
        masks: Mapping[bytes, bytes],
        rounds: Sequence[bytes],
        requests: Mapping[bytes, bytes],
    ) -> SessionRecord:
        """The session; ``rounds`` in their order, ``requests`` by name in theirs.

        Raises:
            Damaged, KeyError, ValueError: a part is not what was put there.
        """
        made = {d: codec.mask_of(self._seal.opened(body, "mask", key, d), d) for d, body in masks.items()}
        return replace(
            header,
            rounds=tuple(
                codec.round_of(self._seal.opened(body, "round", key, str(number)), made)
                for number, body in enumerate(rounds)
            ),
            requests=tuple(
                codec.request_of(self._seal.opened(body, "request", key, name), made)
                for name, body in requests.items()
            ),
        )

    def proof(self) -> bytes:
        """By which a place shows later that its sessions were sealed by this seal."""
        return self._seal.closed(_PROOF, "seal")

    def proves(self, proof: bytes) -> bool:
        try:
            self._seal.opened(proof, "seal")
        except Damaged:
            return False
        return True

    def _request(self, request_id: str) -> bytes:
        return self._seal.name("request", request_id)


_PROOF = b"sessions"


def _masks(record: SessionRecord) -> dict[bytes, Mask]:
    """By digest, all that it holds: of its rounds, and of those that requests are answered with again."""
    return {mask.digest: mask for mask in changes.all_masks(record)}
