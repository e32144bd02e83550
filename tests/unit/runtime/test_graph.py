"""A graph is held against its interface when it is opened, and its failures are typed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from serving.bundle import BundleError
from serving.errors import EngineFault, Unavailable
from serving.runtime.graph import CPU, CUDA, Graph, Interface, ProviderError, TensorSpec, _load_cuda
from serving.runtime.worker import Stop
from tests.unit.runtime.graphs import ROWS, WIDTH, gather, products

X, Y = ROWS.inputs[0], ROWS.outputs[0]
PICKS = Interface(inputs=(X, TensorSpec("at", "int64", (None,))), outputs=(Y,))


def rows(count: int) -> np.ndarray:
    return np.arange(count * WIDTH, dtype=np.float32).reshape(count, WIDTH)


def test_it_runs(tmp_path: Path) -> None:
    graph = Graph(products(tmp_path / "g.onnx", 2), ROWS, threads=1)
    (y,) = graph.run({"x": rows(3)}, Stop())
    assert np.array_equal(y, rows(3))
    assert graph.description == "onnxruntime/CPUExecutionProvider"


@pytest.mark.parametrize(
    ("interface", "words"),
    [
        (Interface((TensorSpec("z", "float32", (None, WIDTH)),), (Y,)), "input x is unknown; input z is missing"),
        (
            Interface((X,), (TensorSpec("z", "float32", (None, WIDTH)),)),
            "output y is unknown; output z is missing",
        ),
        (
            Interface((TensorSpec("x", "float32", (None, 8)),), (Y,)),
            r"input x is float32\[\*,256\], not float32\[\*,8\]",
        ),
        (Interface((TensorSpec("x", "float16", (None, WIDTH)),), (Y,)), r"is float32\[\*,256\], not float16"),
        (
            Interface((X,), (TensorSpec("y", "float32", (2, WIDTH)),)),
            r"is float32\[\*,256\], not float32\[2,256\]",
        ),
        (Interface((X,), (TensorSpec("y", "float32", (None, None)),)), r"not float32\[\*,\*\]"),
        (Interface((X,), (TensorSpec("y", "float32", (None, WIDTH, 1)),)), r"not float32\[\*,256,1\]"),
    ],
)
def test_a_graph_that_differs_is_refused(tmp_path: Path, interface: Interface, words: str) -> None:
    with pytest.raises(BundleError, match=words):
        Graph(products(tmp_path / "g.onnx", 1), interface, threads=1)


def test_a_file_that_is_no_graph_is_refused(tmp_path: Path) -> None:
    (tmp_path / "g.onnx").write_bytes(b"no graph")
    with pytest.raises(BundleError, match=r"g\.onnx cannot be opened"):
        Graph(tmp_path / "g.onnx", ROWS, threads=1)


def test_a_provider_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ProviderError, match="TensorrtExecutionProvider"):
        Graph(products(tmp_path / "g.onnx", 1), ROWS, threads=1, providers=("TensorrtExecutionProvider",))


class Session:
    """An onnxruntime session that ends up with ``providers``."""

    asked: ClassVar[dict[str, object]] = {}
    providers: ClassVar[list[str]] = []
    order: ClassVar[list[str]] = []

    def __init__(self, path: str, options: object, **asked: object) -> None:
        type(self).asked = asked
        self.order.append("session")

    def get_providers(self) -> list[str]:
        return self.providers

    def get_inputs(self) -> list[object]:
        return [SimpleNamespace(name="x", type="tensor(float)", shape=[None, WIDTH])]

    def get_outputs(self) -> list[object]:
        return [SimpleNamespace(name="y", type="tensor(float)", shape=[None, WIDTH])]


@pytest.fixture
def with_cuda(monkeypatch: pytest.MonkeyPatch) -> type[Session]:
    """As onnxruntime-gpu would say, on a host whose cuDNN is missing."""

    def preload() -> None:
        Session.order.append("libraries")
        print("Failed to load libcudnn.so.9: cannot open shared object file")

    _load_cuda.cache_clear()
    monkeypatch.setattr(Session, "order", [])
    monkeypatch.setattr("serving.runtime.graph.onnxruntime.preload_dlls", preload)
    monkeypatch.setattr("serving.runtime.graph.onnxruntime.get_available_providers", lambda: [*CUDA, *CPU])
    monkeypatch.setattr("serving.runtime.graph.onnxruntime.InferenceSession", Session)
    return Session


def test_cuda_is_asked_for_with_its_options(
    with_cuda: type[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_cuda, "providers", [*CUDA, *CPU])  # onnxruntime adds its own behind
    graph = Graph(tmp_path / "g.onnx", ROWS, threads=1, providers=CUDA)
    assert graph.description == "onnxruntime/CUDAExecutionProvider"
    assert with_cuda.asked["providers"] == ["CUDAExecutionProvider"]
    assert with_cuda.asked["provider_options"] == [
        {
            "cudnn_conv_algo_search": "HEURISTIC",
            "arena_extend_strategy": "kSameAsRequested",
            "use_tf32": "0",  # float32 is float32
        }
    ]


def test_cudas_libraries_are_loaded_once_and_before_a_session(
    with_cuda: type[Session],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """From their wheels: a host needs no toolkit."""
    monkeypatch.setattr(with_cuda, "providers", [*CUDA, *CPU])
    for _ in range(2):
        Graph(tmp_path / "g.onnx", ROWS, threads=1, providers=CUDA)
    assert with_cuda.order == ["libraries", "session", "session"]
    assert capsys.readouterr().out == ""


def test_a_cpu_needs_no_libraries_of_cuda(
    with_cuda: type[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(with_cuda, "providers", [*CPU])
    Graph(tmp_path / "g.onnx", ROWS, threads=1)
    assert with_cuda.order == ["session"]


def test_a_fall_back_to_the_cpu_is_refused(
    with_cuda: type[Session], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What onnxruntime does in silence when there is no GPU, or a library is missing."""
    monkeypatch.setattr(with_cuda, "providers", [*CPU])
    with pytest.raises(
        ProviderError,
        match=r"g\.onnx: CUDAExecutionProvider was asked for, CPUExecutionProvider came.*libcudnn\.so\.9",
    ):
        Graph(tmp_path / "g.onnx", ROWS, threads=1, providers=CUDA)


@pytest.mark.parametrize("feeds", [{}, {"x": rows(2).astype(np.float64)}, {"x": rows(2)[:, :5].copy()}])
def test_feeds_that_do_not_fit_are_our_fault(tmp_path: Path, feeds: dict[str, np.ndarray]) -> None:
    graph = Graph(products(tmp_path / "g.onnx", 1), ROWS, threads=1)
    with pytest.raises(EngineFault, match=r"g\.onnx: onnxruntime failed"):
        graph.run(feeds, Stop())


def test_a_node_that_fails_is_our_fault_and_the_next_run_works(tmp_path: Path) -> None:
    graph = Graph(gather(tmp_path / "g.onnx"), PICKS, threads=1)
    with pytest.raises(EngineFault):
        graph.run({"x": rows(2), "at": np.array([7])}, Stop())
    (y,) = graph.run({"x": rows(2), "at": np.array([1])}, Stop())
    assert np.array_equal(y, rows(2)[1:])


def test_an_output_is_written_in_place(tmp_path: Path) -> None:
    graph = Graph(products(tmp_path / "g.onnx", 3), ROWS, threads=1)
    place = np.zeros((3, 2, WIDTH), np.float32)
    graph.run_into({"x": rows(2)}, place[1], Stop())
    assert np.array_equal(place[1], rows(2))
    assert not place[[0, 2]].any()


@pytest.mark.parametrize(
    "place",
    [
        np.zeros((2, 2 * WIDTH), np.float32)[:, ::2],
        np.zeros((3, WIDTH), np.float32),
        np.zeros((2, WIDTH), np.float16),
    ],
    ids=["strided", "another shape", "another type"],
)
def test_a_place_that_does_not_fit_is_refused(tmp_path: Path, place: np.ndarray) -> None:
    graph = Graph(products(tmp_path / "g.onnx", 1), ROWS, threads=1)
    with pytest.raises(EngineFault):
        graph.run_into({"x": rows(2)}, place, Stop())
    assert not place.any()


def test_a_stopped_job_runs_nothing(tmp_path: Path) -> None:
    graph = Graph(products(tmp_path / "g.onnx", 1), ROWS, threads=1)
    stop = Stop()
    stop.request()
    place = np.zeros((2, WIDTH), np.float32)
    with pytest.raises(Unavailable):
        graph.run({"x": rows(2)}, stop)
    with pytest.raises(Unavailable):
        graph.run_into({"x": rows(2)}, place, stop)
    assert not place.any()
