"""Sessions as bytes: JSON for what has words and numbers, zlib for masks and pixels. Form 3 (``records.VERSION``).

Knows every field that is kept. What is derived is not: the tower's pixels, ``Round.reference``. Masks lie by
themselves and are named by their digest. Does not know where bytes lie, or that they are encrypted.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
from typing import Any

import numpy as np

from serving.domain import U8, CacheUse, Mask, Rectangle, Segmentation, Timings
from serving.history.record import RequestKey, RequestRecord, SessionRecord
from serving.history.rounds import Amendment, MaskSource, ReferredMask, Round, RoundResult, UsedReference

Fields = dict[str, Any]
Masks = Mapping[bytes, Mask]
"""By digest."""
_FAST = 1
_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class StoredImage:
    """Of a ``SourceImage``, what cannot be derived."""

    pixels: U8
    embedding_key: str


def header_bytes(record: SessionRecord) -> bytes:
    """A session but for its version, owner, rounds and requests."""
    fields = {
        "session_id": record.session_id,
        "size": record.size,
        "content": record.content.hex(),
        "model_digest": record.model_digest,
        "keep": record.keep,
        "opened_at": record.opened_at,
        "root": record.root,
        "account": record.account,
    }
    # Left out where it says nothing: an older server beside this one reads the rest.
    return _json(fields | ({"window": record.window} if record.window else {}))


def header_of(body: bytes, caller: str, version: int) -> SessionRecord:
    fields = json.loads(body)
    size, content = tuple(fields.pop("size")), bytes.fromhex(fields.pop("content"))
    return SessionRecord(caller=caller, version=version, size=size, content=content, **fields)


def round_bytes(of: Round) -> bytes:
    return _json(_round_fields(of))


def round_of(body: bytes, masks: Masks) -> Round:
    """Without its reference."""
    return _round(json.loads(body), masks)


def request_bytes(request: RequestRecord) -> bytes:
    results = [
        {
            "index": each.index,
            "round": _round_fields(each.round),
            "timings": asdict(each.timings),
            "cache": asdict(each.cache),
        }
        # Left out where there is none, as a header's window is.
        | ({} if each.near_zero is None else {"near_zero": _name(each.near_zero)})
        for each in request.results
    ]
    key = {"id": request.key.id, "fingerprint": request.key.fingerprint.hex()}
    return _json({"key": key, "rounds": request.rounds, "results": results})


def request_of(body: bytes, masks: Masks) -> RequestRecord:
    fields = json.loads(body)
    key = RequestKey(fields["key"]["id"], bytes.fromhex(fields["key"]["fingerprint"]))
    return RequestRecord(key, fields["rounds"], tuple(_result(each, masks) for each in fields["results"]))


def _result(fields: Fields, masks: Masks) -> RoundResult:
    near_zero = fields.get("near_zero")
    return RoundResult(
        index=fields["index"],
        round=_round(fields["round"], masks),
        timings=Timings(**fields["timings"]),
        cache=CacheUse(**fields["cache"]),
        near_zero=near_zero and _named(near_zero, masks),
    )


def mask_bytes(mask: Mask) -> bytes:
    return _framed({"size": mask.size, "area": mask.area, "box": _numbers(mask.box)}, mask.packed)


def mask_of(body: bytes, digest: bytes) -> Mask:
    fields, raw = _unframed(body)
    box = fields["box"] and Rectangle(*fields["box"])
    return Mask(np.frombuffer(raw, np.uint8), tuple(fields["size"]), fields["area"], box, digest)


def image_bytes(image: StoredImage) -> bytes:
    return _framed({"shape": image.pixels.shape, "embedding_key": image.embedding_key}, image.pixels)


def image_of(body: bytes) -> StoredImage:
    fields, raw = _unframed(body)
    return StoredImage(np.frombuffer(raw, np.uint8).reshape(fields["shape"]), fields["embedding_key"])


def _round_fields(of: Round) -> Fields:
    return {
        "round_id": of.round_id,
        "question": of.question,
        "answer": of.answer,
        "token_ids": of.token_ids,
        "used": of.used and _used_fields(of.used),
        "segmentation": of.segmentation and asdict(of.segmentation) | {"mask": _name(of.segmentation.mask)},
        "seeded": of.seeded,
        "origin": of.origin,
        "engine_digest": of.engine_digest,
        "amendment": of.amendment and {"mask": _name(of.amendment.mask), "origin": of.amendment.origin},
    }


def _round(fields: Fields, masks: Masks) -> Round:
    used, made, amended = fields["used"], fields["segmentation"], fields["amendment"]
    return Round(
        round_id=fields["round_id"],
        question=fields["question"],
        answer=fields["answer"],
        token_ids=tuple(fields["token_ids"]),
        used=used and _used(used, masks),
        reference=None,
        segmentation=made and Segmentation(**made | {"mask": _named(made["mask"], masks)}),
        seeded=fields["seeded"],
        origin=fields["origin"],
        engine_digest=fields["engine_digest"],
        amendment=amended and Amendment(_named(amended["mask"], masks), amended["origin"]),
    )


def _used_fields(used: UsedReference) -> Fields:
    referred = used.referred
    return {
        "mask": _name(referred.mask),
        "source": referred.source.name,
        "round": referred.round,
        "round_id": referred.round_id,
        "origin": referred.origin,
        "crop": _numbers(used.crop),
        "box": _numbers(used.box),
        "whole_image": used.whole_image,
    }


def _used(fields: Fields, masks: Masks) -> UsedReference:
    source, mask = MaskSource[fields["source"]], _named(fields["mask"], masks)
    referred = ReferredMask(mask, source, fields["round"], fields["round_id"], fields["origin"])
    return UsedReference(referred, Rectangle(*fields["crop"]), Rectangle(*fields["box"]), fields["whole_image"])


def _name(mask: Mask) -> str:
    return mask.digest.hex()


def _named(name: str, masks: Masks) -> Mask:
    return masks[bytes.fromhex(name)]


def _numbers(of: Rectangle | None) -> tuple[int, ...] | None:
    return None if of is None else astuple(of)


def _json(fields: Fields) -> bytes:
    return json.dumps(fields, separators=(",", ":")).encode()


def _framed(fields: Fields, raw: U8) -> bytes:
    """JSON behind its length, then the bytes, compressed."""
    head = _json(fields)
    return len(head).to_bytes(_LENGTH_BYTES) + head + zlib.compress(np.ascontiguousarray(raw).data, _FAST)


def _unframed(body: bytes) -> tuple[Fields, bytes]:
    end = _LENGTH_BYTES + int.from_bytes(body[:_LENGTH_BYTES])
    return json.loads(body[_LENGTH_BYTES:end]), zlib.decompress(body[end:])
