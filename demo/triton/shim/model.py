"""A backend for Triton's Python stub: the graph beside the model's plan, in ONNX Runtime on a CPU.

Installed under the names ``tensorrt`` and ``onnxruntime`` where there is no GPU, so that a real Triton serves the
production configurations: it checks requests, queues, batches and times out; this computes. It stands for the C++
backends, which Triton takes where they are: one run for a whole batch, and no start when the graph is not what the
configuration says.
"""

import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
import triton_python_backend_utils as pb_utils

GRAPH = "model.onnx"
THREADS = "MEDIROUND_STUB_THREADS"
"""Environment variable: threads of each graph."""
_TYPES = {
    "tensor(bool)": "TYPE_BOOL",
    "tensor(uint8)": "TYPE_UINT8",
    "tensor(int32)": "TYPE_INT32",
    "tensor(float16)": "TYPE_FP16",
    "tensor(float)": "TYPE_FP32",
}


class TritonPythonModel:
    """One model; see Triton's python backend for who calls what."""

    @staticmethod
    def auto_complete_config(config):
        return config

    def initialize(self, args):
        config = json.loads(args["model_config"])
        folder = Path(args["model_repository"]) / args["model_version"]
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = int(os.environ.get(THREADS, "1"))
        # Threads that spin would take the cores from the other model's process.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        providers = ["CPUExecutionProvider"]
        self._session = onnxruntime.InferenceSession(str(folder / GRAPH), options, providers=providers)
        self._outputs = [output["name"] for output in config["output"]]
        self._inputs = [tensor["name"] for tensor in config["input"]]
        differences = [
            *_differences(config["input"], self._session.get_inputs()),
            *_differences(config["output"], self._session.get_outputs()),
        ]
        if differences:
            raise pb_utils.TritonModelException(f"{GRAPH} is not what the configuration says: {differences}")

    def execute(self, requests):
        """One run for all requests, which Triton has seen to be of one shape but for the batch."""
        inputs = [
            [pb_utils.get_input_tensor_by_name(request, name).as_numpy() for request in requests]
            for name in self._inputs
        ]
        sizes = [len(values) for values in inputs[0]]
        feeds = {name: _joined(parts) for name, parts in zip(self._inputs, inputs, strict=True)}
        results = self._session.run(self._outputs, feeds)
        responses, start = [], 0
        for size in sizes:
            tensors = [
                pb_utils.Tensor(name, np.ascontiguousarray(result[start : start + size]))
                for name, result in zip(self._outputs, results, strict=True)
            ]
            responses.append(pb_utils.InferenceResponse(tensors))
            start += size
        return responses


def _joined(parts):
    return parts[0] if len(parts) == 1 else np.concatenate(parts)


def _differences(configured, nodes):
    """The batch is a dimension of the graph, and none of the configuration."""
    said = {tensor["name"]: (tensor["data_type"], list(map(int, tensor["dims"]))) for tensor in configured}
    found = {
        node.name: (_TYPES.get(node.type), [n if isinstance(n, int) else -1 for n in node.shape[1:]])
        for node in nodes
    }
    return sorted(name for name in said.keys() | found.keys() if said.get(name) != found.get(name))
