"""The tap around both of vLLM's samplers, with samplers and runners made up after their call conventions."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make env-vllm")

from serving.llm.plugin.tap import FeatureTap, V1FeatureSampler, V2FeatureSampler, tapped

FEATURE, VOCABULARY, SEG = 4, 9, 6


@dataclass
class Output:
    """What both samplers return, as far as the tap looks."""

    sampled_token_ids: torch.Tensor
    logprobs_tensors: Any
    other: str = "kept"


class Model:
    """Features are the rows times ten."""

    config = SimpleNamespace(feature=FEATURE, seg_token_id=SEG)

    def __init__(self, rows: torch.Tensor) -> None:
        self.last_rows = rows

    def features(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return hidden_states * 10


class V1Sampler:
    """Masks the logits in place, as vLLM's does with float32."""

    name = "v1"

    def __init__(self) -> None:
        self.asked: list[int | None] = []

    def __call__(self, logits: torch.Tensor, sampling_metadata: Any) -> Output:
        self.asked.append(sampling_metadata.max_num_logprobs)
        logits[:, SEG] = -torch.inf
        return Output(logits.argmax(1, keepdim=True), "top-k" if sampling_metadata.max_num_logprobs else None)


class V2Sampler:
    def __init__(self) -> None:
        self.added: list[tuple[int, int | None]] = []

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        self.added.append((req_idx, sampling_params.logprobs))

    def __call__(self, logits: torch.Tensor, input_batch: Any) -> Output:
        return Output(logits.argmax(1, keepdim=True), None)


ROWS = torch.arange(3 * FEATURE, dtype=torch.float32).view(3, FEATURE)
LOGITS = torch.randn(3, VOCABULARY, generator=torch.Generator().manual_seed(1))


def assert_tapped(output: Output, logits: torch.Tensor = LOGITS) -> None:
    tensors = output.logprobs_tensors
    expected = torch.log_softmax(logits, 1)[:, SEG]
    assert torch.allclose(tensors.logprobs[:, 0], expected)
    assert torch.equal(tensors.logprobs[:, 1:], ROWS * 10)
    assert tensors.selected_token_ranks.tolist() == [0, 0, 0]
    assert tensors.logprob_token_ids.shape == (3, 1 + FEATURE)
    assert tensors.logprob_token_ids.dtype == torch.int32
    assert torch.equal(tensors.logprob_token_ids[:, :1], output.sampled_token_ids.int())
    assert output.other == "kept"


def v1_metadata(logprobs: int | None) -> Any:
    return SimpleNamespace(max_num_logprobs=logprobs)


def test_v1_fills_the_columns_and_spares_the_top_k() -> None:
    base = V1Sampler()
    metadata = v1_metadata(FEATURE)
    sampler = V1FeatureSampler(base, Model(ROWS))
    assert_tapped(sampler(logits=LOGITS.clone(), sampling_metadata=metadata))
    assert base.asked == [None]
    assert metadata.max_num_logprobs == FEATURE  # the runner's own is not touched
    assert sampler.name == "v1"


@pytest.mark.parametrize("logprobs", [None, FEATURE - 1])
def test_v1_leaves_other_batches_alone(logprobs: int | None) -> None:
    base = V1Sampler()
    output = V1FeatureSampler(base, Model(ROWS))(logits=LOGITS.clone(), sampling_metadata=v1_metadata(logprobs))
    assert output.logprobs_tensors == ("top-k" if logprobs else None)
    assert base.asked == [logprobs]


def batch(*slots: int) -> Any:
    return SimpleNamespace(idx_mapping_np=np.array(slots))


def test_v2_fills_the_columns_for_requests_that_asked() -> None:
    base = V2Sampler()
    sampler = V2FeatureSampler(base, Model(ROWS), max_requests=8)
    asked = SimpleNamespace(logprobs=FEATURE)
    sampler.add_request(5, asked)
    sampler.add_request(2, SimpleNamespace(logprobs=None))
    assert base.added == [(5, None), (2, None)]
    assert asked.logprobs == FEATURE  # the request's own is not touched
    assert_tapped(sampler(LOGITS, batch(2, 5, 3)))
    assert sampler(LOGITS, batch(2, 3)).logprobs_tensors is None


def test_v2_forgets_a_slot_that_another_request_takes() -> None:
    sampler = V2FeatureSampler(V2Sampler(), Model(ROWS), max_requests=8)
    sampler.add_request(5, SimpleNamespace(logprobs=FEATURE))
    sampler.add_request(5, SimpleNamespace(logprobs=None))
    assert sampler(LOGITS, batch(5)).logprobs_tensors is None


def test_half_precision_logits_are_read_in_float32() -> None:
    sampler = V2FeatureSampler(V2Sampler(), Model(ROWS), max_requests=8)
    sampler.add_request(0, SimpleNamespace(logprobs=FEATURE))
    halved = LOGITS.to(torch.bfloat16)
    assert_tapped(sampler(halved, batch(0)), halved.float())


@pytest.mark.parametrize(("base", "kind"), [(V1Sampler, V1FeatureSampler), (V2Sampler, V2FeatureSampler)])
def test_the_tap_is_installed_once(base: type, kind: type) -> None:
    model = Model(ROWS)
    runner = SimpleNamespace(sampler=base(), get_model=lambda: model, max_num_reqs=8)
    worker = FeatureTap()
    worker.model_runner = runner
    assert worker.install_feature_tap() == FEATURE
    installed = runner.sampler
    assert isinstance(installed, kind)
    assert worker.install_feature_tap() == FEATURE
    assert runner.sampler is installed is tapped(runner)


def test_a_pipeline_has_no_sampler_to_tap() -> None:
    worker = FeatureTap()
    worker.model_runner = SimpleNamespace(sampler=None)
    with pytest.raises(RuntimeError, match="pipeline_parallel_size must be 1"):
        worker.install_feature_tap()
