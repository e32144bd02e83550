"""A bundle whose graphs keep their weights beside them, as those of more than 2 GiB do: all under a digest."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from exporters.bundle import DEFAULTS, Sources, write_bundle
from exporters.compare.drift import Comparison
from exporters.compare.recorded_inputs import DecodeInputs
from exporters.hardlink import place
from exporters.onnx import files
from exporters.triton_repository import read_digest, write_repository
from exporters.variant import Form, write_variant
from serving.bundle import (
    IMAGE_ENCODER,
    LANGUAGE_MODEL,
    MASK_DECODER,
    VISION_TOWER,
    Bundle,
    BundleError,
    load_bundle,
)
from tests.unit.exporters.conftest import Made

GRAPHS = (IMAGE_ENCODER, MASK_DECODER, VISION_TOWER, LANGUAGE_MODEL)


@pytest.fixture(scope="module")
def divided(made: Made, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    out = tmp_path_factory.mktemp("divided") / "bundle"
    sources = Sources(made.directory, made.directory / "llava_med", made.directory / "clip")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "LARGEST", 1000)
        return write_bundle(sources, DEFAULTS, out, lambda _: None)


def linked(bundle: Bundle, out: Path) -> Path:
    for path in bundle.directory.rglob("*"):
        if path.is_file():
            place(path, out / path.relative_to(bundle.directory))
    return out


def tower(directory: Path, side: int) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(str(directory / VISION_TOWER))
    pixels = np.linspace(-1, 1, 3 * side * side, dtype=np.float32).reshape(1, 3, side, side)
    return list(session.run(None, {"pixels": pixels}))


def test_weights_lie_beside_their_graph_under_its_name(divided: Bundle, random_bundle: Bundle) -> None:
    names = {f"{name}.data" for name in GRAPHS}
    assert divided.manifest.files.keys() == random_bundle.manifest.files.keys() | names
    side = divided.manifest.tower.side
    for ours, theirs in zip(tower(divided.directory, side), tower(random_bundle.directory, side), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_changed_byte_in_any_file_is_refused(divided: Bundle, tmp_path: Path) -> None:
    bundle = linked(divided, tmp_path / "bundle")
    for name in divided.manifest.files:
        whole = (bundle / name).read_bytes()
        for at in (0, len(whole) // 2, len(whole) - 1):
            (bundle / name).unlink()  # the original may be linked to it
            (bundle / name).write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
            with pytest.raises(BundleError, match=f"{name}: SHA-256 is"):
                load_bundle(bundle)
        (bundle / name).write_bytes(whole)
    assert load_bundle(bundle).digest == divided.digest


def test_a_repository_takes_the_weights_along(divided: Bundle, tmp_path: Path) -> None:
    write_repository(divided, tmp_path)
    for name in (IMAGE_ENCODER, MASK_DECODER):
        folder = tmp_path / name.removesuffix(".onnx")
        onnxruntime.InferenceSession(str(folder / "1" / "model.onnx"))
        assert read_digest(folder / "config.pbtxt") == divided.manifest.graph_digest(name)
        assert read_digest(folder / "config.pbtxt") != divided.manifest.files[name]


def test_a_variant_takes_the_weights_along(divided: Bundle, questions: list[DecodeInputs], tmp_path: Path) -> None:
    write_variant(divided, Form("fp16", "float32"), tmp_path / "fp16", Comparison(questions), lambda _: None)
    variant = load_bundle(tmp_path / "fp16")
    data = f"{LANGUAGE_MODEL}.data"
    assert variant.manifest.files[data] == divided.manifest.files[data]
    assert variant.path(data).stat().st_nlink == 1, "ONNX's tools refuse what has several links"
    assert f"{IMAGE_ENCODER}.data" not in variant.manifest.files, "cast weights are written anew"


def test_a_smaller_graph_leaves_no_weights_of_the_larger_one(made: Made, divided: Bundle, tmp_path: Path) -> None:
    out = linked(divided, tmp_path / "bundle")
    sources = Sources(made.directory, made.directory / "llava_med", made.directory / "clip")
    again = write_bundle(sources, DEFAULTS, out, lambda _: None)
    assert not list(out.glob("*.data"))
    assert not [name for name in again.manifest.files if name.endswith(".data")]
    assert load_bundle(divided.directory).digest == divided.digest, "what was linked stays"
