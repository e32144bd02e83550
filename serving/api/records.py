"""Engine records: what computes rounds, as messages, and the digest that each result names its record by.

Knows the digest's canonical form, which the contract states. Does not know the engines: what they say of
themselves comes with results.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TypeAlias

from google.protobuf import json_format
from google.protobuf.message import Message

from mediround.v1 import segmentation_pb2 as pb
from mediround.window import RULE
from serving.api.description import ServerDescription
from serving.domain import Runtimes
from serving.logs import fields
from serving.runtime.record import RuntimeRecord

LOG = logging.getLogger("serving.engines")

Value: TypeAlias = str | int | Message


class EngineRecords:
    """The records of one server. Each is logged once: a digest can be looked up when its engine is gone."""

    def __init__(self, served: ServerDescription) -> None:
        self._served = served
        self._records: dict[Runtimes, pb.EngineRecord] = {}

    def of(self, runtimes: Runtimes) -> pb.EngineRecord:
        """The record, with its digest."""
        record = self._records.get(runtimes)
        if record is None:
            record = self._records[runtimes] = self._made(runtimes)
            written = json_format.MessageToJson(record, indent=None, preserving_proto_field_name=True)
            LOG.info("engine record %s", written, extra=fields(engine_digest=record.digest))
        return record

    def digest_of(self, runtimes: Runtimes) -> str:
        """What results name the record by."""
        return self.of(runtimes).digest

    def _made(self, runtimes: Runtimes) -> pb.EngineRecord:
        served, manifest = self._served, self._served.manifest
        libraries = [pb.Library(name=name, version=version) for name, version in sorted(served.libraries.items())]
        record = pb.EngineRecord(
            bundle=pb.BundleRecord(name=manifest.name, version=manifest.version, digest=served.model_digest),
            server_version=served.server_version,
            pixels=pb.PixelRecord(libraries=libraries, window=RULE),
            language=_runtime(runtimes.language),
            image_encoder=_runtime(runtimes.image_encoder),
            mask_decoder=_runtime(runtimes.mask_decoder),
        )
        record.digest = digest(record)
        return record


def digest(record: pb.EngineRecord) -> str:
    """SHA-256 of a record's canonical form, hex; its own ``digest`` is no part of it."""
    unnamed = pb.EngineRecord()
    unnamed.CopyFrom(record)
    unnamed.ClearField("digest")
    return hashlib.sha256(_canonical(unnamed)).hexdigest()


def _canonical(message: Message) -> bytes:
    """Its fields that are present, in ascending order of their numbers."""
    return b"".join(
        number.to_bytes(4) + kind + len(value).to_bytes(8) + value for number, kind, value in _fields(message)
    )


def _fields(message: Message) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, type and value of each element."""
    for field, value in message.ListFields():
        elements: Sequence[Value] = value if field.is_repeated else [value]
        for element in elements:
            yield field.number, *_encoded(element)


def _encoded(value: Value) -> tuple[bytes, bytes]:
    match value:
        case str():
            return b"s", value.encode()
        case int():
            return b"u", value.to_bytes(8)
        case _:
            return b"m", _canonical(value)


def _runtime(record: RuntimeRecord) -> pb.RuntimeRecord:
    return pb.RuntimeRecord(**asdict(record))  # None leaves a field out
