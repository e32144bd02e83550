"""Chosen rows: features of any rows of a prompt leave the engine in the place of the prompt's log-probabilities.

The tap (``serving.llm.plugin.tap``) sees the rows that tokens are sampled from: of a prompt, its last. This
stands where vLLM computes log-probabilities of prompt tokens, and yields the rows that a request names
(``CHOSEN_ROWS`` of its ``extra_args``) and no others. A row that the prefix cache has is never computed, and
comes as NaN.

Knows both of vLLM's model runners: V1 (CPU; the method ``_get_prompt_logprobs_dict``) and V2 (GPU; the
``prompt_logprobs_worker``). vLLM's own log-probabilities of prompts are gone where this is installed.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors

from serving.llm.plugin.tap import FeatureTap, marked, seg_log_probability

CHOSEN_ROWS = "mediround_rows"


@dataclass(slots=True)
class Chosen:
    """What was read of a request so far."""

    positions: Sequence[int]
    """Of the prompt's rows, ascending: m."""
    values: Tensor
    """(m, 1 + feature), on the device; NaN where nothing was read."""

    def tensors(self) -> LogprobsTensors:
        tokens = torch.zeros((len(self.positions), 1), dtype=torch.int32, device=self.values.device)
        return marked(self.values, tokens)


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of one prompt among a step's rows."""

    chosen: Chosen
    begin: int
    """First token of the prompt that the step computes."""
    count: int
    """Tokens that it computes."""
    row: int
    """Of the step, where ``begin`` is."""

    @property
    def slots(self) -> slice:
        """Those of ``chosen`` that lie within."""
        positions = self.chosen.positions
        return slice(bisect_left(positions, self.begin), bisect_left(positions, self.begin + self.count))

    @property
    def rows(self) -> list[int]:
        """Theirs, of the step."""
        return [self.row + position - self.begin for position in self.chosen.positions[self.slots]]


class RowReader:
    """Reads rows of ``model``."""

    def __init__(self, model: Any) -> None:
        self._model = model

    def chosen(self, sampling_params: Any, device: torch.device) -> Chosen | None:
        """Nothing read yet; None for a request that chooses none."""
        positions = (sampling_params.extra_args or {}).get(CHOSEN_ROWS)
        if not positions:
            return None
        shape = (len(positions), 1 + self._model.config.feature)
        return Chosen(positions, torch.full(shape, torch.nan, device=device))

    def read(self, chunks: Sequence[Chunk], hidden_states: Tensor) -> None:
        """Read the chosen rows of a step's hidden states (rows, H), all at once."""
        rows = [row for chunk in chunks for row in chunk.rows]
        if not rows:
            return
        hidden = hidden_states[torch.tensor(rows).to(hidden_states.device, non_blocking=True)]
        logits = self._model.language_model.compute_logits(hidden)
        log_probability = seg_log_probability(logits, self._model.config.seg_token_id)
        values = torch.cat((log_probability, self._model.features(hidden)), 1)
        taken = 0
        for chunk in chunks:
            target = chunk.chosen.values[chunk.slots]
            target.copy_(values[taken : taken + len(target)])
            taken += len(target)


class V1ChosenRows:
    """In the place of a V1 runner's ``_get_prompt_logprobs_dict``.

    Keeps what it has read in the runner's own record of the request, which goes when the request does.
    """

    def __init__(self, runner: Any) -> None:
        self._runner = runner
        self._reader = RowReader(runner.get_model())

    @property
    def held(self) -> int:
        """Requests that something is kept for."""
        begun = [r for r in self._runner.requests.values() if r.in_progress_prompt_logprobs_cpu is not None]
        return len(begun) + len(self._runner.num_prompt_logprobs)

    def __call__(
        self, hidden_states: Tensor, num_scheduled_tokens: dict[str, int]
    ) -> dict[str, LogprobsTensors | None]:
        runner, chunks, done = self._runner, [], {}
        for name in runner.num_prompt_logprobs:
            count, request = num_scheduled_tokens.get(name), runner.requests[name]
            if count is None:
                continue  # preempted
            chosen = request.in_progress_prompt_logprobs_cpu
            if chosen is None:
                chosen = self._reader.chosen(request.sampling_params, hidden_states.device)
                request.in_progress_prompt_logprobs_cpu = chosen
            begin = request.num_computed_tokens
            if chosen is not None:
                row = int(runner.query_start_loc.np[runner.input_batch.req_id_to_index[name]])
                chunks.append(Chunk(chosen, begin, count, row))
            if begin + count >= len(request.prompt_token_ids):
                done[name] = chosen
        self._reader.read(chunks, hidden_states)
        for name in done:
            del runner.num_prompt_logprobs[name]
            runner.requests[name].in_progress_prompt_logprobs_cpu = None
        return {name: _on_cpu(chosen.tensors()) for name, chosen in done.items() if chosen is not None}


class V2ChosenRows:
    """Around ``base``, a V2 runner's ``prompt_logprobs_worker``, whose other attributes it passes on."""

    def __init__(self, base: Any, model: Any) -> None:
        self._base = base
        self._reader = RowReader(model)
        self._chosen: dict[str, Chosen] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    @property
    def held(self) -> int:
        """Requests that something is kept for."""
        return len(self._chosen)

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:  # noqa: ARG002  # vLLM's signature
        chosen = self._reader.chosen(sampling_params, self._base.device)
        if chosen is not None:
            self._chosen[req_id] = chosen

    def remove_request(self, req_id: str) -> None:
        self._chosen.pop(req_id, None)

    def compute_prompt_logprobs(  # noqa: PLR0917  # vLLM's signature
        self,
        logits_fn: Any,  # noqa: ARG002  # vLLM's signature
        hidden_states: Tensor,
        input_batch: Any,
        all_token_ids: Any,  # noqa: ARG002  # vLLM's signature
        num_computed_tokens: Any,  # noqa: ARG002  # vLLM's signature
        prompt_lens: Any,
    ) -> dict[str, LogprobsTensors]:
        chunks, done = [], []
        for index, name in enumerate(input_batch.req_ids if self._chosen else ()):
            chosen = self._chosen.get(name)
            if chosen is None:
                continue
            length = int(prompt_lens[input_batch.idx_mapping_np[index]])
            if length < input_batch.prefill_len_np[index]:
                del self._chosen[name]  # preempted after its prompt was read: it was answered then
                continue
            begin = int(input_batch.num_computed_prefill_tokens_np[index])
            count = int(input_batch.num_scheduled_tokens[index])
            chunks.append(Chunk(chosen, begin, count, int(input_batch.query_start_loc_np[index])))
            if begin + count >= length:
                done.append(name)
        self._reader.read(chunks, hidden_states)
        return {name: self._chosen.pop(name).tensors() for name in done}


def _on_cpu(tensors: LogprobsTensors) -> LogprobsTensors:
    return LogprobsTensors(*(tensor.cpu() for tensor in tensors[:3]))


class ChosenRowsTap(FeatureTap):
    """What vLLM mixes into its worker where rows are chosen."""

    chosen_rows: V1ChosenRows | V2ChosenRows

    def install_chosen_rows(self) -> bool:
        """Once. False: vLLM has no such seam, and nothing was changed."""
        runner = self.model_runner
        if getattr(runner, "prompt_logprobs_worker", None) is not None:
            runner.prompt_logprobs_worker = V2ChosenRows(runner.prompt_logprobs_worker, runner.get_model())
            self.chosen_rows = runner.prompt_logprobs_worker
        elif hasattr(runner, "_get_prompt_logprobs_dict") and hasattr(runner, "num_prompt_logprobs"):
            runner._get_prompt_logprobs_dict = self.chosen_rows = V1ChosenRows(runner)  # noqa: SLF001  # the seam
        else:
            return False
        return True

    def chosen_rows_held(self) -> int:
        """Requests that this worker keeps rows for."""
        return self.chosen_rows.held
