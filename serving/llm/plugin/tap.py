"""The feature tap: [SEG] features leave the engine in the place of log-probabilities.

The hidden state that a token is sampled from is the row given to ``compute_logits``, and the feature is a
projection of it. So the tap stands around the runner's sampler and fills the log-probability columns of each
token: column 0 holds log p([SEG]), the others the feature. Rank 0 marks such a row: vLLM's own ranks begin at 1,
so an answer that passed the tap can be recognised.

Knows both of vLLM's model runners: V1 (CPU; ``sampler(logits, sampling_metadata)``) and V2 (GPU;
``sampler(logits, input_batch)``, requests announced by ``add_request``). Nothing here waits for the device.
"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.v1.outputs import LogprobsTensors

TAPPED_RANK = 0


def seg_log_probability(logits: Tensor, seg: int) -> Tensor:
    """Of the token ``seg``: (rows, 1), float32."""
    scores = logits.float()
    return (scores[:, seg] - scores.logsumexp(-1)).unsqueeze(1)


def marked(rows: Tensor, tokens: Tensor) -> LogprobsTensors:
    """Rows (n, 1 + feature), and the token of each (n, 1), as vLLM carries log-probabilities."""
    count, width = rows.shape
    # Token ids name the columns; the first is the row's token by vLLM's convention.
    columns = torch.arange(width - 1, dtype=torch.int32, device=rows.device).expand(count, -1)
    ranks = torch.full((count,), TAPPED_RANK, dtype=torch.int32, device=rows.device)
    return LogprobsTensors(torch.cat((tokens, columns), 1), rows, ranks)


class FeatureSampler:
    """Around ``base``, a vLLM sampler, whose every other attribute it passes on."""

    def __init__(self, base: Any, model: Any) -> None:
        self._base = base
        self._model = model
        self._size: int = model.config.feature
        self._seg: int = model.config.seg_token_id

    def __getattr__(self, name: str) -> Any:
        return getattr(self._base, name)

    def _seg_log_probability(self, logits: Tensor) -> Tensor:
        """Of the raw logits: samplers may change them in place."""
        return seg_log_probability(logits, self._seg)

    def _with_features(self, output: Any, log_probability: Tensor) -> Any:
        features = self._model.features(self._model.last_rows)
        sampled = output.sampled_token_ids.view(-1, 1).to(torch.int32)
        tapped = marked(torch.cat((log_probability, features), 1), sampled)
        return replace(output, logprobs_tensors=tapped)


class V1FeatureSampler(FeatureSampler):
    def __call__(self, logits: Tensor, sampling_metadata: Any, *args: Any, **kwargs: Any) -> Any:
        if sampling_metadata.max_num_logprobs != self._size:
            return self._base(logits, sampling_metadata, *args, **kwargs)
        log_probability = self._seg_log_probability(logits)
        plain = copy.copy(sampling_metadata)
        plain.max_num_logprobs = None  # no top-k over the vocabulary
        return self._with_features(self._base(logits, plain, *args, **kwargs), log_probability)


class V2FeatureSampler(FeatureSampler):
    """``max_requests``: slots of the runner; a request is known by its slot."""

    def __init__(self, base: Any, model: Any, max_requests: int) -> None:
        super().__init__(base, model)
        self._wanted = np.zeros(max_requests, np.bool_)

    def add_request(self, req_idx: int, sampling_params: Any) -> None:
        self._wanted[req_idx] = wanted = sampling_params.logprobs == self._size
        if wanted:
            sampling_params = copy.copy(sampling_params)
            sampling_params.logprobs = None  # no top-k over the vocabulary
        self._base.add_request(req_idx, sampling_params)

    def __call__(self, logits: Tensor, input_batch: Any) -> Any:
        if not self._wanted[input_batch.idx_mapping_np].any():
            return self._base(logits, input_batch)
        log_probability = self._seg_log_probability(logits)
        return self._with_features(self._base(logits, input_batch), log_probability)


def tapped(runner: Any) -> FeatureSampler:
    """The tap for a model runner's sampler, of either kind; the one that is there if it is tapped already.

    Raises:
        RuntimeError: the runner has none, as all but the last of a pipeline have on V2.
    """
    sampler = runner.sampler
    if sampler is None:
        raise RuntimeError("this worker of vLLM's samples nothing: pipeline_parallel_size must be 1")
    if isinstance(sampler, FeatureSampler):
        return sampler
    if hasattr(sampler, "add_request"):
        return V2FeatureSampler(sampler, runner.get_model(), runner.max_num_reqs)
    return V1FeatureSampler(sampler, runner.get_model())


class FeatureTap:
    """vLLM mixes this into its worker (``worker_extension_cls``)."""

    model_runner: Any

    def install_feature_tap(self) -> int:
        """Install the tap, once; returns the length of a feature."""
        self.model_runner.sampler = tapped(self.model_runner)
        return int(self.model_runner.get_model().config.feature)
