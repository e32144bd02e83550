"""Which initialisers become float16, and that nothing changes by it."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

from exporters.onnx.fp16_storage import store_halved


def product(weight: np.ndarray) -> onnx.ModelProto:
    """x [B, n] @ weight [n, m]."""
    rows, columns = weight.shape
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "weight"], ["y"])],
        "product",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["B", rows])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["B", columns])],
        [numpy_helper.from_array(weight, "weight")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def halved(model: onnx.ModelProto) -> onnx.ModelProto:
    converted = ir.from_proto(model)
    store_halved(converted)
    return ir.to_proto(converted)


def stored_types(model: onnx.ModelProto) -> list[int]:
    return [initializer.data_type for initializer in model.graph.initializer]


def exact(shape: tuple[int, int]) -> np.ndarray:
    return np.random.default_rng(0).standard_normal(shape).astype(np.float16).astype(np.float32)


def test_float16_values_are_stored_as_such_and_cast_back() -> None:
    model = product(exact((64, 32)))
    small = halved(model)
    assert stored_types(small) == [TensorProto.FLOAT16]
    assert [node.op_type for node in small.graph.node] == ["Cast", "MatMul"]
    onnx.checker.check_model(small, full_check=True)
    x = np.random.default_rng(1).standard_normal((3, 64), dtype=np.float32)
    results = [
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, {"x": x})
        for m in (model, small)
    ]
    assert np.array_equal(results[0][0], results[1][0])


def test_other_values_stay() -> None:
    weight = exact((64, 32))
    weight[3, 3] += np.float32(1e-6)
    assert stored_types(halved(product(weight))) == [TensorProto.FLOAT]


def test_values_beyond_float16_stay() -> None:
    weight = exact((64, 32))
    weight[0, 0] = 1e6
    assert stored_types(halved(product(weight))) == [TensorProto.FLOAT]


def test_small_ones_stay() -> None:
    assert stored_types(halved(product(exact((8, 8))))) == [TensorProto.FLOAT]
