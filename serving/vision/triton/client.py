"""Calls of one Triton server: the only module that imports tritonclient.

Knows Triton's gRPC contract and tensors by value or in a slot. Does not know models, what a failure means
(``serving.vision.triton.failures``), or when to call again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import grpc
import numpy as np
from tritonclient.grpc import InferInput, InferRequestedOutput
from tritonclient.grpc.aio import InferenceServerClient, InferResult
from tritonclient.utils import InferenceServerException, np_to_triton_dtype, triton_to_np_dtype

from mediround import channels
from serving.runtime.graph import Array, Interface, TensorSpec
from serving.runtime.slab import Slab, Slot

_ADMIN_HEADER = "triton-grpc-protocol-admin-key"
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    # A server that restarts is found within a second, and one whose machine vanished is not waited for.
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
]
_ANSWER_SECONDS = 5.0
"""For calls that compute nothing."""


class TritonFailure(Exception):
    """A call that failed: gRPC's code, by name, and Triton's words."""

    def __init__(self, code: str, words: str) -> None:
        super().__init__(f"{code}: {words}")
        self.code, self.words = code, words


@dataclass(frozen=True, slots=True)
class InputTensor:
    """An input: an array with its batch, or a slot that holds one."""

    name: str
    values: Array
    slot: Slot | None = None
    """If given, the server reads there, and ``values`` say the shape alone."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """An output; with ``slot`` the server writes its first ``nbytes``."""

    name: str
    slot: Slot | None = None
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class TritonCall:
    model: str
    inputs: Sequence[InputTensor]
    outputs: Sequence[OutputTensor]
    priority: int

    @property
    def writes(self) -> bool:
        """Whether the server writes into memory of ours."""
        return any(output.slot is not None for output in self.outputs)

    @property
    def by_reference(self) -> bool:
        """Whether it reads or writes there."""
        return self.writes or any(tensor.slot is not None for tensor in self.inputs)


@dataclass(frozen=True, slots=True)
class ModelDescription:
    """A model as its server describes it. Shapes have the batch in front."""

    interface: Interface
    platform: str
    parameters: Mapping[str, str]


class TritonClient:
    """Calls of one server, as a value of the event loop that makes it. Every call raises TritonFailure."""

    def __init__(
        self, address: str, version: str, admin_key: str | None, credentials: grpc.ChannelCredentials | None
    ) -> None:
        """``version``: of every model. ``admin_key`` is sent with calls that change the server."""
        self._version = version
        self._admin = {_ADMIN_HEADER: admin_key} if admin_key else None
        self._client = InferenceServerClient(
            address, creds=credentials, channel_args=[*_OPTIONS, *channels.DIRECT]
        )
        self.sent = self.received = 0
        """Bytes of tensors that went through gRPC."""

    async def infer(self, call: TritonCall, queue_seconds: float, seconds: float) -> dict[str, Array]:
        """Outputs by name, without those in slots, which are written when this returns.

        ``queue_seconds``: how long the request may wait for its model, at most what its configuration says.
        """
        try:
            result = await self._client.infer(
                call.model,
                [self._input(tensor) for tensor in call.inputs],
                model_version=self._version,
                outputs=[_output(output) for output in call.outputs],
                priority=call.priority,
                timeout=max(1, round(queue_seconds * 1e6)),  # 0 would be none
                client_timeout=seconds,
            )
        except InferenceServerException as failure:
            raise _failure(failure) from failure
        return {output.name: self._array(result, output.name) for output in call.outputs if output.slot is None}

    async def describe(self, model: str) -> ModelDescription:
        try:
            metadata = await self._client.get_model_metadata(model, self._version, client_timeout=_ANSWER_SECONDS)
            answer = await self._client.get_model_config(model, self._version, client_timeout=_ANSWER_SECONDS)
        except InferenceServerException as failure:
            raise _failure(failure) from failure
        parameters = {name: value.string_value for name, value in answer.config.parameters.items()}
        interface = Interface(tuple(map(_spec, metadata.inputs)), tuple(map(_spec, metadata.outputs)))
        return ModelDescription(interface, answer.config.platform or answer.config.backend, parameters)

    async def version(self) -> str:
        """Of Triton."""
        try:
            metadata = await self._client.get_server_metadata(client_timeout=_ANSWER_SECONDS)
        except InferenceServerException as failure:
            raise _failure(failure) from failure
        return str(metadata.version)

    async def ready(self, model: str) -> bool:
        try:
            return bool(await self._client.is_model_ready(model, self._version, client_timeout=_ANSWER_SECONDS))
        except InferenceServerException as failure:
            raise _failure(failure) from failure

    async def regions(self) -> dict[str, str]:
        """Keys of the shared-memory regions that the server maps, by name."""
        try:
            status = await self._client.get_system_shared_memory_status(
                headers=self._admin, client_timeout=_ANSWER_SECONDS
            )
        except InferenceServerException as failure:
            raise _failure(failure) from failure
        return {name: region.key for name, region in status.regions.items()}

    async def register(self, slab: Slab) -> None:
        try:
            await self._client.register_system_shared_memory(
                slab.name, slab.key, slab.nbytes, headers=self._admin, client_timeout=_ANSWER_SECONDS
            )
        except InferenceServerException as failure:
            raise _failure(failure) from failure

    async def unregister(self, name: str) -> None:
        try:
            await self._client.unregister_system_shared_memory(
                name, headers=self._admin, client_timeout=_ANSWER_SECONDS
            )
        except InferenceServerException as failure:
            raise _failure(failure) from failure

    async def close(self) -> None:
        """Calls in flight end as if they were cancelled."""
        await self._client.close()

    def _input(self, tensor: InputTensor) -> InferInput:
        infer_input = InferInput(tensor.name, tensor.values.shape, np_to_triton_dtype(tensor.values.dtype))
        if tensor.slot is not None:
            return infer_input.set_shared_memory(tensor.slot.slab.name, tensor.values.nbytes, tensor.slot.offset)
        self.sent += tensor.values.nbytes
        return infer_input.set_data_from_numpy(tensor.values)

    def _array(self, result: InferResult, name: str) -> Array:
        """Raises TritonFailure for an output that is missing or has another length than its shape says."""
        try:
            array = result.as_numpy(name)
        except ValueError as error:  # numpy's, of the two
            raise TritonFailure("INTERNAL", f"output {name} has not the length of its shape") from error
        if array is None:
            raise TritonFailure("INTERNAL", f"output {name} is missing")
        self.received += array.nbytes
        return np.asarray(array)


def _output(output: OutputTensor) -> InferRequestedOutput:
    infer_output = InferRequestedOutput(output.name)
    if output.slot is not None:
        infer_output.set_shared_memory(output.slot.slab.name, output.nbytes, output.slot.offset)
    return infer_output


def _spec(tensor: object) -> TensorSpec:
    """Of Triton's metadata, where an open length is -1."""
    shape = tuple(None if length < 0 else int(length) for length in tensor.shape)  # type: ignore[attr-defined]  # generated without types
    element = np.dtype(triton_to_np_dtype(tensor.datatype)).name  # type: ignore[attr-defined]  # as above
    return TensorSpec(tensor.name, element, shape)  # type: ignore[attr-defined]  # as above


def _failure(failure: InferenceServerException) -> TritonFailure:
    code = (failure.status() or "UNKNOWN").removeprefix("StatusCode.")
    return TritonFailure(code, failure.message() or "")
