"""Rows chosen of prompts, with both runners made up after their call conventions; and the reader of answers."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm", reason="vLLM is not installed: make env-vllm")

from serving.errors import EngineFault
from serving.llm.plugin.rows import CHOSEN_ROWS, ChosenRowsTap, V1ChosenRows, V2ChosenRows
from serving.llm.vllm_core import Steps, VllmCore
from serving.llm.vllm_requests import VllmRequest
from tests.unit.serving.manifests import manifest

FEATURE, SEG, HIDDEN = 4, 2, 4
MANIFEST = manifest()


class Language:
    """Logits are the hidden states."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def compute_logits(self, hidden: torch.Tensor) -> torch.Tensor:
        self.rows.append(len(hidden))
        return hidden


class Model:
    """Features are the hidden states times ten."""

    config = SimpleNamespace(feature=FEATURE, seg_token_id=SEG)

    def __init__(self) -> None:
        self.language_model = Language()

    def features(self, hidden: torch.Tensor) -> torch.Tensor:
        return hidden * 10


def hidden(*numbers: int) -> torch.Tensor:
    """The hidden state of each number."""
    return torch.stack([torch.arange(HIDDEN) * 0.1 + number for number in numbers]).float()


def sampling(*positions: int) -> Any:
    return SimpleNamespace(
        extra_args={CHOSEN_ROWS: list(positions)} if positions else None, prompt_logprobs=FEATURE
    )


def assert_rows(tensors: Any, *numbers: int | None) -> None:
    """Those of these hidden states; None: not read."""
    assert tensors.selected_token_ranks.tolist() == [0] * len(numbers)
    assert tensors.logprob_token_ids.shape == tensors.logprobs.shape == (len(numbers), 1 + FEATURE)
    assert tensors.logprob_token_ids.dtype == torch.int32
    for row, number in zip(tensors.logprobs, numbers, strict=True):
        if number is None:
            assert row.isnan().all()
        else:
            state = hidden(number)
            assert torch.equal(row[1:], state[0] * 10)
            assert torch.allclose(row[0], state.log_softmax(1)[0, SEG])


@dataclass
class V1Request:
    prompt_token_ids: list[int]
    sampling_params: Any
    num_computed_tokens: int = 0
    in_progress_prompt_logprobs_cpu: Any = None


@dataclass
class V1Runner:
    """Requests by name; a step's rows lie in the order that ``step`` is given."""

    requests: dict[str, V1Request] = field(default_factory=dict)
    num_prompt_logprobs: dict[str, int] = field(default_factory=dict)
    model: Model = field(default_factory=Model)

    def _get_prompt_logprobs_dict(self, *_: Any) -> Any:
        raise AssertionError("vLLM's own is gone")

    def get_model(self) -> Model:
        return self.model

    def add(self, name: str, length: int, *positions: int, cached: int = 0) -> None:
        self.requests[name] = V1Request([0] * length, sampling(*positions), cached)
        self.num_prompt_logprobs[name] = FEATURE

    def finish(self, name: str) -> None:
        """As the runner does with one that ended or was aborted."""
        del self.requests[name]
        self.num_prompt_logprobs.pop(name, None)

    def step(self, rows: V1ChosenRows, *scheduled: tuple[str, int]) -> Any:
        """The hidden state of token t of the prompt of request ``a`` is ``state(a, t)``."""
        starts = np.cumsum([0] + [count for _, count in scheduled])
        self.query_start_loc = SimpleNamespace(np=starts)
        self.input_batch = SimpleNamespace(req_id_to_index={name: i for i, (name, _) in enumerate(scheduled)})
        states = [
            state(name, self.requests[name].num_computed_tokens + t) for name, n in scheduled for t in range(n)
        ]
        found = rows(hidden(*states), dict(scheduled))
        for name, count in scheduled:
            self.requests[name].num_computed_tokens += count
        return found


def state(name: str, token: int) -> int:
    return 20 * (ord(name) - ord("a")) + token


def test_v1_reads_the_rows_of_each_prompt_at_once() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 6, 1, 3)
    runner.add("b", 5, 0)
    runner.requests["c"] = V1Request([0] * 4, SimpleNamespace(extra_args=None))
    found = runner.step(rows, ("c", 4), ("a", 6), ("b", 5))
    assert set(found) == {"a", "b"}
    assert_rows(found["a"], state("a", 1), state("a", 3))
    assert_rows(found["b"], state("b", 0))
    assert runner.model.language_model.rows == [3]  # the vocabulary's matrix sees no other row
    assert rows.held == 0
    assert runner.step(rows, ("c", 1), ("a", 1)) == {}


def test_v1_gathers_chunks_and_answers_with_the_last() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 9, 0, 3, 4, 7)
    assert runner.step(rows, ("a", 4)) == {}
    assert rows.held > 0
    assert runner.step(rows, ("a", 4)) == {}  # all but the last token, whose step samples
    assert_rows(runner.step(rows, ("a", 1))["a"], *(state("a", t) for t in (0, 3, 4, 7)))
    assert rows.held == 0


def test_v1_has_nothing_of_what_the_prefix_cache_has() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 9, 1, 4, 6, cached=5)
    assert_rows(runner.step(rows, ("a", 4))["a"], None, None, state("a", 6))


def test_v1_keeps_rows_through_a_preemption() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 9, 1, 6)
    runner.step(rows, ("a", 4))
    assert rows(hidden(0), {}) == {}  # preempted: not in this step
    runner.requests["a"].num_computed_tokens = 2  # what the cache had kept of it
    assert_rows(runner.step(rows, ("a", 7))["a"], state("a", 1), state("a", 6))


def test_v1_leaves_nothing_of_an_aborted_request() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 9, 1, 6)
    runner.step(rows, ("a", 4))
    runner.finish("a")
    assert rows.held == 0


def test_v1_yields_nothing_to_a_request_that_chooses_no_rows() -> None:
    runner = V1Runner()
    rows = V1ChosenRows(runner)
    runner.add("a", 3)
    assert runner.step(rows, ("a", 3)) == {}
    assert rows.held == 0


@dataclass
class V2Worker:
    """vLLM's ``PromptLogprobsWorker``, as far as it is used: not at all."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    other: str = "kept"


class V2Runner:
    """Slots of requests are their order in ``lengths``."""

    def __init__(self, **lengths: int) -> None:
        self.model = Model()
        self.prompt_logprobs_worker: Any = V2Worker()
        self.slots = {name: slot for slot, name in enumerate(lengths)}
        self.lengths = np.array(list(lengths.values()))

    def get_model(self) -> Model:
        return self.model

    def step(self, *scheduled: tuple[str, int, int], resumed: int = 0) -> Any:
        """Each: name, tokens computed before, tokens computed now."""
        names, computed, counts = (list(values) for values in zip(*scheduled, strict=True))
        slots = np.array([self.slots[name] for name in names])
        batch = SimpleNamespace(
            req_ids=names,
            idx_mapping_np=slots,
            prefill_len_np=self.lengths[slots] + resumed,
            num_computed_prefill_tokens_np=np.array(computed),
            num_scheduled_tokens=np.array(counts),
            query_start_loc_np=np.cumsum([0, *counts]),
        )
        states = [state(name, begin + t) for name, begin, n in scheduled for t in range(n)]
        return self.prompt_logprobs_worker.compute_prompt_logprobs(
            None, hidden(*states), batch, None, None, self.lengths
        )


def installed(runner: Any) -> ChosenRowsTap:
    worker = ChosenRowsTap()
    worker.model_runner = runner
    assert worker.install_chosen_rows()
    return worker


def test_v2_reads_the_rows_of_each_prompt_at_once() -> None:
    runner = V2Runner(a=6, b=5, c=4)
    worker = installed(runner)
    rows = runner.prompt_logprobs_worker
    assert isinstance(rows, V2ChosenRows)
    assert rows.other == "kept"
    for name, positions in {"a": (1, 3), "b": (0,), "c": ()}.items():
        rows.add_request(name, runner.slots[name], sampling(*positions))
    assert worker.chosen_rows_held() == 2
    found = runner.step(("b", 0, 5), ("c", 0, 4), ("a", 0, 6))
    assert set(found) == {"a", "b"}
    assert_rows(found["a"], state("a", 1), state("a", 3))
    assert_rows(found["b"], state("b", 0))
    assert runner.model.language_model.rows == [3]
    assert worker.chosen_rows_held() == 0
    assert runner.step(("c", 4, 1), ("a", 6, 1)) == {}


def test_v2_gathers_chunks_without_what_the_prefix_cache_has() -> None:
    runner = V2Runner(a=12)
    worker = installed(runner)
    runner.prompt_logprobs_worker.add_request("a", 0, sampling(1, 4, 8, 10))
    assert runner.step(("a", 3, 5)) == {}
    assert runner.step(("a", 8, 3)) == {}
    assert_rows(runner.step(("a", 11, 1))["a"], None, state("a", 4), state("a", 8), state("a", 10))
    assert worker.chosen_rows_held() == 0


def test_v2_leaves_nothing_of_an_aborted_request() -> None:
    runner = V2Runner(a=9)
    worker = installed(runner)
    runner.prompt_logprobs_worker.add_request("a", 0, sampling(1, 6))
    runner.step(("a", 0, 4))
    runner.prompt_logprobs_worker.remove_request("a")
    runner.prompt_logprobs_worker.remove_request("a")
    assert worker.chosen_rows_held() == 0


def test_v2_answers_a_prompt_once() -> None:
    """Preempted while it generates, a request comes again with what it has said: its rows were read before."""
    runner = V2Runner(a=5)
    worker = installed(runner)
    rows = runner.prompt_logprobs_worker
    rows.add_request("a", 0, sampling(1))
    assert set(runner.step(("a", 0, 5))) == {"a"}
    rows.remove_request("a")
    rows.add_request("a", 0, sampling(1))
    assert runner.step(("a", 0, 7), resumed=2) == {}
    assert worker.chosen_rows_held() == 0


def test_a_v1_runner_is_given_its_own() -> None:
    runner = V1Runner()
    worker = installed(runner)
    runner.add("a", 3, 1)
    assert worker.chosen_rows_held() == 1
    assert isinstance(runner._get_prompt_logprobs_dict, V1ChosenRows)


def test_without_the_seam_nothing_is_changed() -> None:
    worker, runner = ChosenRowsTap(), SimpleNamespace(prompt_logprobs_worker=None)
    worker.model_runner = runner
    assert not worker.install_chosen_rows()
    assert vars(runner) == {"prompt_logprobs_worker": None}


def flat(*rows: list[float] | None, rank: int = 0) -> Any:
    """As ``FlatLogprobs``; None is an entry of no columns."""
    values = [row or [] for row in rows]
    ends = np.cumsum([len(row) for row in values]).tolist()
    begins = [end - len(row) for end, row in zip(ends, values, strict=True)]
    joined = [value for row in values for value in row]
    return SimpleNamespace(start_indices=begins, end_indices=ends, ranks=[rank] * len(joined), logprobs=joined)


def output(prompt: Any) -> Any:
    sampled = SimpleNamespace(token_ids=[7], logprobs=flat(row(9)))
    return SimpleNamespace(outputs=[sampled], prompt_logprobs=prompt, num_cached_tokens=0)


def row(number: float) -> list[float]:
    return [number] * (1 + MANIFEST.language.feature)


def core() -> VllmCore:
    return VllmCore(SimpleNamespace(errored=False), MANIFEST, Steps(), chosen_rows=True)


REQUEST = VllmRequest((1,) * 6, 6, (), (), (), "", 1, rows=(1, 3, 5))


def test_an_answer_holds_its_rows_in_order() -> None:
    answer = core()._read(REQUEST, output(flat(None, row(1), row(float("nan")))))
    first, second, last = answer.read
    assert first is not None
    assert last is not None
    assert (first.vector[0], first.log_probability, second, last.vector[0]) == (1, 1, None, 9)


@pytest.mark.parametrize(
    "prompt",
    [None, flat(None), flat(None, row(1)), flat(None, row(1), row(2), row(3)), flat(None, row(1), row(2)[1:])],
)
def test_an_answer_with_other_rows_is_refused_for_good(prompt: Any) -> None:
    broken = core()
    with pytest.raises(EngineFault, match="tap is missing"):
        broken._read(REQUEST, output(prompt))
    assert not broken.alive


def test_rows_of_real_log_probabilities_are_refused_for_good() -> None:
    broken = core()
    with pytest.raises(EngineFault, match="tap is missing"):
        broken._read(REQUEST, output(flat(None, row(1), row(2), rank=1)))
    assert not broken.alive


async def test_rows_are_not_asked_of_an_engine_without_them() -> None:
    plain = VllmCore(SimpleNamespace(errored=False), MANIFEST, Steps())
    with pytest.raises(EngineFault, match="no chosen rows"):
        await plain.answer(REQUEST)
    assert plain.alive
