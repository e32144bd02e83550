"""Prompts and completions as messages of the internal contract, both ways.

Knows the contract's fields, and does not trust them: sizes are checked against the manifest, and a digest is
believed only once it was computed here. Does not know calls, engines, or which pictures the other side holds.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection
from dataclasses import asdict, dataclass

import numpy as np

from serving.bundle import Manifest
from serving.domain import Rectangle, Reference, SegFeature, TowerImage
from serving.errors import EngineFault, InvalidInput
from serving.llm.image_cache import ImageCache
from serving.llm.v1 import language_pb2 as pb
from serving.ports import Completion, Prompt
from serving.runtime.record import RuntimeRecord

BEGUN = "mediround-begun"
"""Initial metadata of a call that reached the engine: one that fails without it may be repeated elsewhere."""
_MAX_NAME_BYTES = 4096
"""Of a dialogue and of a tenant, which may be a certificate's subject."""
_SMALL_FIELDS_BYTES = 1 << 20
"""More than names, and what is sent of a reference beside its pixels, take."""
_BOX_NUMBERS = 4
_ID_BYTES = 10
"""The longest varint."""


class PicturesMissing(Exception):
    """The prompt names pictures that were not sent and are not held."""

    def __init__(self, digests: Collection[str]) -> None:
        super().__init__(f"{len(digests)} pictures are missing")
        self.digests = digests


@dataclass(frozen=True, slots=True)
class PromptReader:
    """Reads requests for one model."""

    manifest: Manifest
    max_references: int
    pictures: ImageCache

    @property
    def max_message_bytes(self) -> int:
        """Room for the largest prompt, and for one with twice as many pictures, so that it is refused in words."""
        pictures = 2 * (self.max_references + 1) * self.manifest.tower.side**2 * 3
        return pictures + 2 * _ID_BYTES * self.manifest.language.max_tokens + _SMALL_FIELDS_BYTES

    def prompt(self, request: pb.CompleteRequest) -> Prompt:
        """What of a prompt an engine checks (placeholders, ids, positions) is left to it.

        Raises:
            InvalidInput: a field is larger than the manifest allows, or pixels are not what their digest says.
            PicturesMissing: nothing was done but to hold the pictures that were sent.
        """
        self._check_sizes(request)
        shown = {"prompt.image": request.image}
        shown |= {f"prompt.references[{i}].crop": each.crop for i, each in enumerate(request.references)}
        known: dict[str, TowerImage] = {}
        read: TowerImage | None
        for path, picture in shown.items():
            if picture.rgb:
                read = self._sent(picture, path)
                self.pictures.put(request.tenant, read)
            else:
                read = known.get(_digest(picture, path)) or self.pictures.get(request.tenant, picture.sha256.hex())
            if read is not None:
                known[read.digest] = read
        digests = [picture.sha256.hex() for picture in shown.values()]
        missing = set(digests) - known.keys()
        if missing:
            raise PicturesMissing(missing)
        image, *crops = (known[digest] for digest in digests)
        return Prompt(
            dialogue=request.dialogue,
            tenant=request.tenant,
            token_ids=tuple(request.token_ids),
            image=image,
            references=tuple(
                _reference(reference, crop, f"prompt.references[{i}]")
                for i, (reference, crop) in enumerate(zip(request.references, crops, strict=True))
            ),
            feature_positions=tuple(request.feature_positions),
            max_new_tokens=request.max_new_tokens,
            ensure_seg=request.ensure_seg,
        )

    def _check_sizes(self, request: pb.CompleteRequest) -> None:
        limit = self.manifest.language.max_tokens
        if len(request.token_ids) > limit or request.max_new_tokens > limit:
            raise InvalidInput("prompt.token_ids", f"the prompt and its answer must hold at most {limit} tokens")
        if len(request.feature_positions) > len(request.token_ids):
            raise InvalidInput("prompt.feature_positions", "must not be more than the prompt's tokens")
        if len(request.references) > self.max_references:
            raise InvalidInput("prompt.references", f"must be at most {self.max_references}")
        for name in ("dialogue", "tenant"):
            if len(getattr(request, name)) > _MAX_NAME_BYTES:
                raise InvalidInput(f"prompt.{name}", f"must hold at most {_MAX_NAME_BYTES} characters")

    def _sent(self, picture: pb.Picture, path: str) -> TowerImage:
        side = self.manifest.tower.side
        digest = _digest(picture, path)
        if len(picture.rgb) != side * side * 3:
            raise InvalidInput(f"{path}.rgb", f"must be {side} x {side} pixels of 3 bytes")
        if hashlib.sha256(picture.rgb).hexdigest() != digest:
            raise InvalidInput(f"{path}.sha256", "must be that of the pixels")
        return TowerImage(digest, np.frombuffer(picture.rgb, np.uint8).reshape(side, side, 3))


def pictures(prompt: Prompt) -> list[TowerImage]:
    """All that a prompt shows, the image first; one that is shown twice stands there twice."""
    return [prompt.image, *(reference.crop for reference in prompt.references)]


def complete_request(prompt: Prompt, bundle_digest: str, without: Collection[str]) -> pb.CompleteRequest:
    """``without`` are digests whose pixels are left out. Pixels of one picture are sent once."""
    left_out = set(without)

    def picture(shown: TowerImage) -> pb.Picture:
        rgb = b"" if shown.digest in left_out else shown.pixels.tobytes()
        left_out.add(shown.digest)
        return pb.Picture(sha256=bytes.fromhex(shown.digest), rgb=rgb)

    return pb.CompleteRequest(
        dialogue=prompt.dialogue,
        tenant=prompt.tenant,
        token_ids=prompt.token_ids,
        image=picture(prompt.image),
        references=[
            pb.Reference(
                round=reference.round,
                crop=picture(reference.crop),
                crop_rectangle=_rectangle_message(reference.crop_rectangle),
                box=reference.box.tolist(),
                box_rectangle=_rectangle_message(reference.box_rectangle),
                whole_image=reference.whole_image,
            )
            for reference in prompt.references
        ],
        feature_positions=prompt.feature_positions,
        max_new_tokens=prompt.max_new_tokens,
        ensure_seg=prompt.ensure_seg,
        bundle_digest=bundle_digest,
    )


def completion_message(completion: Completion) -> pb.Completion:
    return pb.Completion(
        features=[_feature_message(feature) for feature in completion.features],
        token_ids=completion.token_ids,
        generated=_feature_message(completion.generated) if completion.generated else None,
        prompt_tokens=completion.prompt_tokens,
        cached_tokens=completion.cached_tokens,
        runtime=runtime_message(completion.runtime),
    )


def completion(message: pb.Completion, length: int) -> Completion:
    """``length`` is a feature's. Raises EngineFault when one has another."""
    return Completion(
        features=tuple(_feature(feature, length) for feature in message.features),
        token_ids=tuple(message.token_ids),
        generated=_feature(message.generated, length) if message.HasField("generated") else None,
        prompt_tokens=message.prompt_tokens,
        cached_tokens=message.cached_tokens,
        runtime=runtime(message.runtime),
    )


def runtime_message(record: RuntimeRecord) -> pb.Runtime:
    return pb.Runtime(**asdict(record))  # None leaves a field out


def runtime(message: pb.Runtime) -> RuntimeRecord:
    return RuntimeRecord(**{"engine": ""} | {field.name: value for field, value in message.ListFields()})


def _digest(picture: pb.Picture, path: str) -> str:
    if len(picture.sha256) != hashlib.sha256().digest_size:
        raise InvalidInput(f"{path}.sha256", "must be 32 bytes")
    return picture.sha256.hex()


def _feature_message(feature: SegFeature) -> pb.SegFeature:
    vector = feature.vector.astype("<f4", copy=False).tobytes()
    return pb.SegFeature(vector=vector, log_probability=feature.log_probability)


def _feature(message: pb.SegFeature, length: int) -> SegFeature:
    if len(message.vector) != length * 4:
        raise EngineFault(f"a language server sent a feature of {len(message.vector)} bytes")
    vector = np.frombuffer(message.vector, "<f4").astype(np.float32)
    return SegFeature(vector, message.log_probability)


def _reference(message: pb.Reference, crop: TowerImage, path: str) -> Reference:
    if len(message.box) != _BOX_NUMBERS:  # before they are read: there may be millions
        raise InvalidInput(f"{path}.box", "must be four finite numbers")
    box = np.array(message.box, np.float32)
    if not np.isfinite(box).all():
        raise InvalidInput(f"{path}.box", "must be four finite numbers")
    return Reference(
        round=message.round,
        crop=crop,
        crop_rectangle=_rectangle(message.crop_rectangle),
        box=box,
        box_rectangle=_rectangle(message.box_rectangle),
        whole_image=message.whole_image,
    )


def _rectangle_message(rectangle: Rectangle) -> pb.Rectangle:
    return pb.Rectangle(x_min=rectangle.x_min, y_min=rectangle.y_min, x_max=rectangle.x_max, y_max=rectangle.y_max)


def _rectangle(message: pb.Rectangle) -> Rectangle:
    return Rectangle(message.x_min, message.y_min, message.x_max, message.y_max)
