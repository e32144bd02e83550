"""Engine records: their digest is that of the contract's words, and each is logged once."""

from __future__ import annotations

import hashlib
import json
import logging
from dataclasses import replace

import pytest
from google.protobuf.descriptor import FieldDescriptor

from mediround.v1 import segmentation_pb2 as pb
from mediround.window import RULE
from serving.api.description import ServerDescription
from serving.api.images import libraries
from serving.api.limits import Limits
from serving.api.records import EngineRecords, digest
from serving.domain import Runtimes
from serving.runtime.record import RuntimeRecord
from tests.service.harness import LIMITS
from tests.unit.serving.manifests import manifest

CPU = RuntimeRecord("onnxruntime", "1.32.0", "CPUExecutionProvider", "float32", 2)
TRITON = RuntimeRecord("triton", "2.51.0", "tensorrt_plan")
RUNTIMES = Runtimes(CPU, TRITON, TRITON)
SERVED = ServerDescription(manifest(), "d" * 64, "0.1.0", Limits(**LIMITS), {"pillow": "13", "opencv": "5"})


def field(number: int, kind: bytes, value: bytes) -> bytes:
    """As the contract says it."""
    return number.to_bytes(4, "big") + kind + len(value).to_bytes(8, "big") + value


def text(number: int, words: str) -> bytes:
    return field(number, b"s", words.encode())


def test_the_digest_is_what_the_contract_says() -> None:
    libraries = [text(1, "opencv") + text(2, "5"), text(1, "pillow") + text(2, "13")]
    cpu = text(1, "onnxruntime") + text(2, "1.32.0") + text(3, "CPUExecutionProvider") + text(4, "float32")
    triton = text(1, "triton") + text(2, "2.51.0") + text(3, "tensorrt_plan")
    whole = (
        field(2, b"m", text(1, SERVED.manifest.name) + text(2, SERVED.manifest.version) + text(3, "d" * 64))
        + text(3, "0.1.0")
        + field(4, b"m", b"".join(field(1, b"m", each) for each in libraries) + text(2, RULE))
        + field(5, b"m", cpu + field(5, b"u", (2).to_bytes(8, "big")))
        + field(6, b"m", triton)
        + field(7, b"m", triton)
    )
    record = EngineRecords(SERVED).of(RUNTIMES)
    assert record.digest == hashlib.sha256(whole).hexdigest() == digest(record)


@pytest.mark.parametrize(
    "other",
    [
        replace(RUNTIMES, language=replace(CPU, engine="vllm")),
        replace(RUNTIMES, language=replace(CPU, version="1.32.1")),
        replace(RUNTIMES, language=replace(CPU, provider=None)),
        replace(RUNTIMES, language=replace(CPU, precision="tf32")),
        replace(RUNTIMES, language=replace(CPU, threads=3)),
        replace(RUNTIMES, language=replace(CPU, runner="v2")),
        replace(RUNTIMES, image_encoder=CPU),
        replace(RUNTIMES, mask_decoder=CPU),
        # The same words elsewhere.
        replace(RUNTIMES, language=replace(CPU, version="1.32.0CPU", provider="ExecutionProvider")),
        replace(RUNTIMES, image_encoder=replace(TRITON, provider=None, precision="tensorrt_plan")),
    ],
)
def test_whatever_differs_changes_the_digest(other: Runtimes) -> None:
    assert EngineRecords(SERVED).of(other).digest != EngineRecords(SERVED).of(RUNTIMES).digest


@pytest.mark.parametrize(
    "changes", [{"model_digest": "e" * 64}, {"server_version": "0.1.1"}, {"libraries": {"pillow": "13"}}]
)
def test_so_does_another_server(changes: dict[str, object]) -> None:
    other = EngineRecords(replace(SERVED, **changes)).of(RUNTIMES)
    assert other.digest != EngineRecords(SERVED).of(RUNTIMES).digest


def test_what_is_not_known_is_absent() -> None:
    record = EngineRecords(SERVED).of(replace(RUNTIMES, language=RuntimeRecord("")))
    assert not record.language.ListFields()
    assert [each.name for each, _ in record.image_encoder.ListFields()] == ["engine", "version", "provider"]


def test_each_record_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    records = EngineRecords(SERVED)
    with caplog.at_level(logging.INFO, "serving.engines"):
        record = records.of(RUNTIMES)
        assert records.of(RUNTIMES) is record
    [line] = caplog.records
    logged = json.loads(line.getMessage().removeprefix("engine record "))
    assert logged["digest"] == record.digest
    assert logged["language"] == {
        "engine": "onnxruntime",
        "version": "1.32.0",
        "provider": "CPUExecutionProvider",
        "precision": "float32",
        "threads": 2,
    }


def test_the_decoders_of_files_are_named() -> None:
    assert {"pillow", "libjpeg-turbo", "libtiff"} <= libraries().keys()
    assert all(version[0].isdigit() for version in libraries().values())


def test_the_contract_holds_no_field_that_the_digest_does_not_know() -> None:
    """Text, whole numbers and messages alone: another type needs a letter in the contract's words."""
    kinds = {FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_UINT32, FieldDescriptor.TYPE_MESSAGE}
    seen, todo = set(), [pb.EngineRecord.DESCRIPTOR]
    while todo:
        for each in todo.pop().fields:
            seen.add(each.type)
            todo += [each.message_type] if each.message_type else []
    assert seen <= kinds
