"""One ``AsyncLLM``: started, tapped and asked, with its failures as errors of the domain.

Knows vLLM's API (0.32, CPU and GPU builds) and how a feature lies in an answer (``serving.llm.plugin.tap``).
Does not know prompts, waves or sessions. To be imported once ``vllm_options.environment`` is in force.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import vllm
from vllm import AsyncEngineArgs, SamplingParams
from vllm.exceptions import VLLMError
from vllm.platforms import current_platform
from vllm.sampling_params import RequestOutputKind
from vllm.v1.engine.async_llm import AsyncLLM
from vllm.v1.engine.exceptions import EngineDeadError
from vllm.v1.metrics.loggers import StatLoggerBase

from serving.bundle import Manifest
from serving.domain import F32, SegFeature
from serving.errors import EngineFault, Unavailable
from serving.llm.plugin import causes
from serving.llm.plugin.rows import CHOSEN_ROWS
from serving.llm.vllm_options import VllmOptions
from serving.llm.vllm_requests import VllmAnswer, VllmRequest
from serving.runtime.record import RuntimeRecord

LOG = logging.getLogger("serving.llm")
SHUTDOWN_SECONDS = 10.0
FEATURE_TAP = "serving.llm.plugin.tap.FeatureTap"
CHOSEN_ROWS_TAP = "serving.llm.plugin.rows.ChosenRowsTap"
_NO_CAUSE = "(its processes gave no cause: was one killed for want of memory?)"
_CACHE_ADVICE = " (the cache's bytes: --vllm.kv-cache-bytes)"
TAPPED_RANK = 0
"""``serving.llm.plugin.tap`` marks its rows so; real ranks begin at 1."""


@dataclass(slots=True)
class Steps:
    """What the engine's steps were."""

    count: int = 0
    """Steps that sampled."""
    largest: int = 0
    """Most requests sampled in one step."""


class StepLogger(StatLoggerBase):
    """Counts steps; vLLM tells it of each."""

    def __init__(self, steps: Steps) -> None:
        self._steps = steps

    def record(self, scheduler_stats: Any, iteration_stats: Any, *args: Any, **kwargs: Any) -> None:  # noqa: ARG002  # vLLM's signature
        if iteration_stats is not None and iteration_stats.num_generation_tokens:
            self._steps.count += 1
            self._steps.largest = max(self._steps.largest, iteration_stats.num_generation_tokens)

    def log_engine_initialized(self) -> None:
        """Nothing to say."""


class VllmCore:
    """An engine of its own processes. ``alive`` turns false for good when it dies or loses its tap."""

    def __init__(self, llm: AsyncLLM, manifest: Manifest, steps: Steps, *, chosen_rows: bool = False) -> None:
        """``chosen_rows``: it can read them."""
        self._llm, self.chosen_rows = llm, chosen_rows
        self._tokens, self._feature = manifest.tokens, manifest.language.feature
        self._numbers = itertools.count()
        self._tapped = True
        self.steps = steps

    @classmethod
    async def start(cls, model: Path, manifest: Manifest, options: VllmOptions, *, tap: bool = True) -> VllmCore:
        """Start the engine's processes and install the tap.

        Args:
            tap: only tests leave it out, to see that such answers are refused.

        Raises:
            EngineFault: the tap cannot be installed, or yields features of another length.
            RuntimeError: vLLM does not start; the message says why.
        """
        if options.batch_invariant and current_platform.is_cpu():
            raise RuntimeError("batch_invariant: vLLM has no such mode on a CPU")
        steps = Steps()
        llm = _started(_arguments(model, manifest, options), steps)
        core = cls(llm, manifest, steps)
        try:
            lengths = await llm.collective_rpc("install_feature_tap") if tap else []
            if options.chosen_rows and tap:
                core.chosen_rows = all(await llm.collective_rpc("install_chosen_rows"))
                if not core.chosen_rows:
                    LOG.warning("this vLLM has no place to read chosen rows at: each feature is a request")
        except BaseException:
            await core.close()
            raise
        if set(lengths) - {manifest.language.feature}:
            await core.close()
            raise EngineFault(f"the tap yields features of {lengths}, not {manifest.language.feature}")
        return core

    @property
    def record(self) -> RuntimeRecord:
        """How it runs. vLLM does not say with how many threads."""
        config = self._llm.vllm_config
        return RuntimeRecord(
            engine="vllm",
            version=vllm.__version__,
            provider=str(current_platform.device_type),
            precision=str(config.model_config.dtype).removeprefix("torch."),
            runner="v2" if config.use_v2_model_runner else "v1",
        )

    @property
    def alive(self) -> bool:
        return self._tapped and not self._llm.errored

    @property
    def unfinished(self) -> int:
        """Requests that vLLM holds."""
        return int(self._llm.get_num_unfinished_requests())

    async def answer(self, request: VllmRequest) -> VllmAnswer:
        """Run one request. Cancelling the task aborts it.

        Raises:
            Unavailable: the engine is dead, or aborted the request.
            EngineFault: the request failed in vLLM, or its answer carries no features.
        """
        if request.chosen and not self.chosen_rows:
            raise EngineFault("this vLLM reads no chosen rows")  # it would die of the request
        try:
            rendered = await self._llm.renderer.render_cmpl_async([_prompt(request)])
            name = f"{next(self._numbers)}"
            async for output in self._llm.generate(rendered[0], self._sampling(request), name):
                final = output
        except EngineDeadError as error:
            raise Unavailable("the language engine died") from error
        except (VLLMError, ValueError, RuntimeError, AssertionError) as error:
            # By its type alone: the text may show the request.
            raise EngineFault(f"vLLM failed with {type(error).__name__}") from None
        if final.outputs[0].finish_reason not in {"stop", "length"}:
            raise Unavailable("the language engine gave the request up")
        return self._read(request, final)

    async def close(self) -> None:
        if self._llm.output_handler is not None:
            self._llm.output_handler.cancel()  # it would take the end for a failure, and log it
        await asyncio.to_thread(self._llm.shutdown, SHUTDOWN_SECONDS)

    def _sampling(self, request: VllmRequest) -> SamplingParams:
        tokens, chosen = self._tokens, request.chosen
        return SamplingParams(
            temperature=0,
            max_tokens=request.max_tokens,
            stop_token_ids=[tokens.seg, tokens.eos],
            # As the ONNX engine: what only the prompt builder may insert is never generated.
            logit_bias=dict.fromkeys((tokens.bos, tokens.bbox, tokens.crop), float("-inf")),
            logprobs=self._feature,  # the tap's rows come in their place
            prompt_logprobs=self._feature if chosen else None,  # and the chosen rows in place of these
            extra_args={CHOSEN_ROWS: list(chosen)} if chosen else None,
            skip_reading_prefix_cache=False,  # vLLM's default with prompt_logprobs is not to read it
            flat_logprobs=True,  # a dict by token id would lose columns
            detokenize=False,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )

    def _read(self, request: VllmRequest, output: Any) -> VllmAnswer:
        """Raises EngineFault, and ends ``alive``, for an answer that did not pass the tap."""
        completion = output.outputs[0]
        table = self._table(completion.logprobs, len(completion.token_ids))
        if not np.isfinite(table).all():
            raise EngineFault("the language model's features are not finite")
        read: list[SegFeature | None] = []
        if request.chosen:
            # vLLM begins with an empty entry: nothing predicts a prompt's first token.
            rows = self._table(output.prompt_logprobs, len(request.chosen), skip=1)
            read += [_feature(row) if np.isfinite(row).all() else None for row in rows]
        if len(request.rows) > len(read):
            read.append(_feature(table[0]))  # the prompt's last row is the first that is sampled from
        return VllmAnswer(
            token_ids=tuple(completion.token_ids),
            features=table[:, 1:],
            log_probabilities=tuple(table[:, 0].tolist()),
            cached_tokens=output.num_cached_tokens or 0,
            read=tuple(read),
        )

    def _table(self, rows: Any, count: int, skip: int = 0) -> F32:
        """The ``count`` rows (count, 1 + feature) behind the first ``skip`` entries, if the tap marked them."""
        width = 1 + self._feature
        begins, ends = (rows.start_indices[skip:], rows.end_indices[skip:]) if rows is not None else ([], [])
        marked = [rows.ranks[begin] == TAPPED_RANK for begin in begins]
        if (
            len(begins) != count
            or not all(marked)
            or any(e - b != width for b, e in zip(begins, ends, strict=True))
        ):
            self._tapped = False
            raise EngineFault("the feature tap is missing: restart the language engine")
        return np.array(rows.logprobs, np.float32).reshape(count, width)


def _feature(row: F32) -> SegFeature:
    return SegFeature(row[1:], float(row[0]))


def _started(arguments: AsyncEngineArgs, steps: Steps) -> AsyncLLM:
    """Raises RuntimeError with vLLM's own reason, in one line."""
    with causes.recorded() as cause:
        try:
            return AsyncLLM.from_engine_args(arguments, stat_loggers=[lambda *_: StepLogger(steps)])
        except (ValueError, NotImplementedError) as error:
            raise RuntimeError(f"vLLM refuses its options: {causes.in_a_line(error)}") from error
        except (RuntimeError, OSError) as error:
            reason = cause() or f"{causes.in_a_line(error)} {_NO_CAUSE}"
            advice = _CACHE_ADVICE if "KV cache" in reason else ""
            raise RuntimeError(f"vLLM does not start: {reason}{advice}") from error


def _arguments(model: Path, manifest: Manifest, options: VllmOptions) -> AsyncEngineArgs:
    references = options.max_references
    return AsyncEngineArgs(
        model=str(model),
        served_model_name=manifest.name,  # shown in vLLM's metrics: do not leak a path
        dtype=options.dtype,
        load_format="safetensors",
        skip_tokenizer_init=True,
        generation_config="vllm",
        max_model_len=manifest.language.max_tokens + 1,  # vLLM samples after the longest prompt too
        max_num_seqs=options.max_num_seqs,
        max_num_batched_tokens=options.max_num_batched_tokens,
        block_size=options.block_size,
        kv_cache_memory_bytes=options.kv_cache_bytes,
        gpu_memory_utilization=options.gpu_memory_utilization,
        enable_prefix_caching=options.prefix_caching,
        enforce_eager=options.eager,
        max_logprobs=manifest.language.feature,
        limit_mm_per_prompt={"image": 1, "crop": references, "bbox": references},
        # Tensors are sent with every request: a cache on both sides of the pipe can drift apart on a cancel.
        mm_processor_cache_gb=0,
        worker_extension_cls=CHOSEN_ROWS_TAP if options.chosen_rows else FEATURE_TAP,
        enable_log_requests=False,
        hf_overrides={"image_mean": list(manifest.tower.mean), "image_std": list(manifest.tower.std)},
    )


def _prompt(request: VllmRequest) -> dict[str, Any]:
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.token_ids), "cache_salt": request.salt}
    media = {"image": request.image, "crop": request.crops, "bbox": request.boxes}
    present = {modality: items for modality, items in media.items() if items}
    if present:
        prompt["multi_modal_data"] = {
            modality: [item.values for item in items] for modality, items in present.items()
        }
        prompt["multi_modal_uuids"] = {
            modality: [item.key for item in items] for modality, items in present.items()
        }
    return prompt
