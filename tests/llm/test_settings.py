"""Flags and environment of the language server."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from pydantic import ValidationError

from serving.bundle import Bundle, load_bundle
from serving.llm.__main__ import build
from serving.llm.settings import LanguageServerSettings
from serving.llm.vllm_options import VllmOptions
from serving.settings import Settings


def parsed(*flags: str) -> LanguageServerSettings:
    return LanguageServerSettings(_cli_parse_args=["--bundle", "models/x", *flags])


def test_defaults_are_safe() -> None:
    settings = parsed()
    assert settings.bundle == Path("models/x")
    assert settings.listen == "127.0.0.1:50061"
    assert settings.engine == "onnx"


def test_its_environment_is_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIROUND_LLM_LIMITS__MAX_CALLS", "7")
    monkeypatch.setenv("MEDIROUND_LLM_LISTEN", "127.0.0.1:1")
    assert parsed().limits.max_calls == 7
    assert parsed("--limits.max-calls", "9").limits.max_calls == 9
    assert parsed().listen == "127.0.0.1:1"
    assert Settings(_cli_parse_args=["--bundle", "models/x"]).listen == "127.0.0.1:50051"


def test_a_prompt_of_any_session_fits_by_default() -> None:
    orchestrator = Settings(_cli_parse_args=["--bundle", "models/x"])
    assert parsed().limits.max_references >= orchestrator.limits.max_rounds


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[VllmOptions]:
    """The options of every vLLM that would have been started."""
    found: list[VllmOptions] = []

    async def start(_: Bundle, options: VllmOptions) -> SimpleNamespace:
        found.append(options)
        return SimpleNamespace(died=None)

    monkeypatch.setattr("serving.llm.__main__.VllmLanguage.start", start)
    return found


async def start(*flags: str) -> None:
    await build(load_bundle(Path("models/mediround-lite")), parsed(*flags))


@pytest.mark.parametrize(
    ("flags", "dtype", "chosen_rows", "step"),
    [
        (["--engine", "vllm"], "bfloat16", True, 8192),
        (["--engine", "vllm", "--no-vllm.chosen-rows"], "bfloat16", False, 8192),
        (["--engine", "vllm", "--vllm.max-num-batched-tokens", "16384"], "bfloat16", True, 16384),
        (["--engine", "vllm-cpu"], "float32", True, 2048),
        (["--engine", "vllm-cpu", "--no-vllm.chosen-rows"], "float32", False, 2048),
        (["--engine", "vllm-cpu", "--vllm.dtype", "bfloat16"], "bfloat16", True, 2048),
    ],
)
async def test_vllm_is_started_as_the_flags_say(
    started: list[VllmOptions], flags: list[str], dtype: str, chosen_rows: bool, step: int
) -> None:
    await start(*flags, "--limits.max-references", "9")
    (options,) = started
    assert (options.dtype, options.chosen_rows, options.max_references) == (dtype, chosen_rows, 9)
    assert options.max_num_batched_tokens == step


@pytest.mark.parametrize("engine", ["vllm", "vllm-cpu"])
async def test_a_step_has_a_token_for_every_request(started: list[VllmOptions], engine: str) -> None:
    with pytest.raises(ValueError, match=r"--vllm.max-num-batched-tokens must be at least --vllm.max-num-seqs"):
        await start("--engine", engine, "--vllm.max-num-seqs", "9000")
    assert started == []


async def test_a_gpu_may_be_shared(started: list[VllmOptions]) -> None:
    await start("--engine", "vllm")
    await start("--engine", "vllm", "--vllm.gpu-memory-utilization", "0.7")
    assert [options.gpu_memory_utilization for options in started] == [0.92, 0.7]


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "0.0.0.0:50061"],
        ["--tls.certificate", "a"],
        ["--engine", "other"],
        ["--limits.max-calls", "0"],
        ["--onnx.prefix-cache-bytes", "-1"],
        ["--engine", "vllm", "--vllm.max-num-batched-tokens", "0"],
        ["--engine", "vllm", "--vllm.gpu-memory-utilization", "0"],
        ["--engine", "vllm", "--vllm.gpu-memory-utilization", "1.1"],
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str]) -> None:
    with pytest.raises(ValidationError):
        parsed(*flags)


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--vllm.dtype", "float32"], "--vllm.dtype must be left out unless --engine is vllm or vllm-cpu"),
        (["--engine", "vllm", "--onnx.threads", "2"], "--onnx.threads must be left out unless --engine is onnx"),
        (["--engine", "vllm-cpu", "--vllm.batch-invariant"], "it needs a GPU"),
        (["--engine", "vllm-cpu", "--vllm.gpu-memory-utilization", "0.5"], "it needs a GPU"),
    ],
)
def test_an_option_that_the_engine_would_not_take_is_refused_by_name(flags: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parsed(*flags)


async def test_a_cpu_takes_every_option_that_is_given(started: list[VllmOptions]) -> None:
    given = {"kv-cache-bytes": 1 << 30, "max-num-seqs": 3, "max-num-batched-tokens": 7, "max-queued": 5}
    await start("--engine", "vllm-cpu", *(text for k, v in given.items() for text in (f"--vllm.{k}", str(v))))
    (options,) = started
    assert (options.kv_cache_bytes, options.max_num_seqs, options.max_queued) == (1 << 30, 3, 5)
    assert options.max_num_batched_tokens == 7
    assert (options.eager, options.block_size) == (True, 32)
