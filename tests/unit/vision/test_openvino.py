"""OpenVINO as the image encoder's runtime: what the vision contract's suite does not ask of it."""

from __future__ import annotations

import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.encoders import half
from exporters.compare.drift import DriftLimits, emulated, measure, pixels
from exporters.compare.recorded_inputs import ask, made_up
from serving.bundle import IMAGE_ENCODER, Bundle, BundleError
from serving.errors import EngineFault, Unavailable
from serving.runtime.graph import Graph, Interface, ProviderError, TensorSpec
from serving.runtime.worker import Stop
from serving.vision import openvino as module
from serving.vision.interface import encoder_interface
from serving.vision.openvino import HostPrecision, OpenVinoEncoder
from tests.unit.runtime.graphs import ROWS, WIDTH, gather, products

SLOW, DEPTH = 1_000, 2_048
"""Products of so many rows; some seconds."""


def row() -> np.ndarray:
    return np.arange(WIDTH, dtype=np.float32)[np.newaxis]


def encoder(bundle: Bundle, precision: HostPrecision) -> OpenVinoEncoder:
    path, interface = bundle.path(IMAGE_ENCODER), encoder_interface(bundle.manifest.image)
    try:
        return OpenVinoEncoder(path, interface, 2, precision)
    except ProviderError as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_it_computes_what_the_reference_computes(random_bundle: Bundle, precision: HostPrecision) -> None:
    """f32 to rounding; bf16 within what a variant in bf16 must keep, and not by computing in f32 after all."""
    subject, image = encoder(random_bundle, precision), random_bundle.manifest.image
    asked = ask(random_bundle, list(made_up()), threads=2)
    reference = Graph(random_bundle.path(IMAGE_ENCODER), encoder_interface(image), 2)
    place, decoder = np.empty((1, *image.embedding), np.float32), emulated(random_bundle.directory, 2)
    figures = measure(asked, half(reference, place, decoder), half(subject, place, decoder))
    assert figures.problems(DriftLimits()) == ()
    if precision == "f32":
        assert figures.embedding_difference < 1e-4
    else:
        assert figures.embedding_difference > 1e-4


def test_the_embedding_is_written_in_place(random_bundle: Bundle) -> None:
    (asked, *_) = ask(random_bundle, list(made_up()), threads=2)
    block = np.zeros((3, *random_bundle.manifest.image.embedding), np.float32)
    encoder(random_bundle, "f32").run_into(pixels(asked), block[1:2], Stop())
    assert block[1].any()
    assert not block[[0, 2]].any()


def test_a_stop_ends_a_run(tmp_path: Path) -> None:
    deep = Interface(
        (TensorSpec("x", "float32", (None, DEPTH, WIDTH)),), (TensorSpec("y", "float32", (None, DEPTH, WIDTH)),)
    )
    subject = OpenVinoEncoder(products(tmp_path / "g.onnx", SLOW, depth=(DEPTH,)), deep, 1, "f32")
    rows = np.ones((1, DEPTH, WIDTH), np.float32)
    out, stop = np.zeros_like(rows), Stop()
    threading.Timer(0.05, stop.request).start()
    with pytest.raises(Unavailable, match="closing"):
        subject.run_into({"x": rows}, out, stop)
    assert not out.any(), "it ran to its end"
    with pytest.raises(Unavailable):
        subject.run_into({"x": rows}, out, stop)  # asked to stop before it starts
    assert not out.any()


@pytest.mark.parametrize("feeds", [{"x": row()[:, :5].copy()}, {"y_": row()}])
def test_feeds_that_do_not_fit_are_our_fault(tmp_path: Path, feeds: dict[str, np.ndarray]) -> None:
    subject = OpenVinoEncoder(products(tmp_path / "g.onnx", 1), ROWS, 1, "f32")
    out = np.zeros((1, WIDTH), np.float32)
    with pytest.raises(EngineFault, match=r"g\.onnx: openvino failed"):
        subject.run_into(feeds, out, Stop())
    subject.run_into({"x": row()}, out, Stop())
    assert np.array_equal(out, row())


def test_a_place_in_pieces_is_our_fault(tmp_path: Path) -> None:
    subject = OpenVinoEncoder(products(tmp_path / "g.onnx", 1), ROWS, 1, "f32")
    with pytest.raises(EngineFault, match="in one piece"):
        subject.run_into({"x": row()}, np.zeros((1, 2 * WIDTH), np.float32)[:, ::2], Stop())


def test_another_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="input at is unknown"):
        OpenVinoEncoder(gather(tmp_path / "g.onnx"), ROWS, 1, "f32")
    halves = Interface((TensorSpec("x", "float16", (None, WIDTH)),), ROWS.outputs)
    with pytest.raises(BundleError, match=r"input x is float32\[\*,256\], not float16\[\*,256\]"):
        OpenVinoEncoder(products(tmp_path / "p.onnx", 1), halves, 1, "f32")
    (tmp_path / "no.onnx").write_text("no graph")
    with pytest.raises(BundleError, match=r"no\.onnx cannot be opened"):
        OpenVinoEncoder(tmp_path / "no.onnx", ROWS, 1, "f32")


def test_without_openvino_the_fix_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(name: str) -> object:
        raise ImportError(f"No module named {name!r}")

    monkeypatch.setattr(module, "import_module", absent)
    with pytest.raises(ProviderError, match=r"pip install ./clients '\.\[cpu,openvino\]'"):
        OpenVinoEncoder(products(tmp_path / "g.onnx", 1), ROWS, 1, "f32")


def test_a_cpu_without_bfloat16_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Core:
        def get_property(self, *_: str) -> list[str]:
            return ["FP32", "INT8"]

    monkeypatch.setattr(module, "import_module", lambda _: SimpleNamespace(Core=Core))
    with pytest.raises(ProviderError, match="this CPU computes in FP32, INT8"):
        OpenVinoEncoder(products(tmp_path / "g.onnx", 1), ROWS, 1, "bf16")
