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


@pytest.mark.parametrize(
    ("flags", "dtype", "chosen_rows"),
    [
        (["--engine", "vllm"], "bfloat16", False),
        (["--engine", "vllm", "--vllm.chosen-rows"], "bfloat16", True),
        (["--engine", "vllm-cpu"], "float32", False),
        (["--engine", "vllm-cpu", "--vllm.chosen-rows"], "float32", True),
        (["--engine", "vllm-cpu", "--vllm.dtype", "bfloat16"], "bfloat16", False),
    ],
)
async def test_vllm_is_started_as_the_flags_say(
    monkeypatch: pytest.MonkeyPatch, flags: list[str], dtype: str, chosen_rows: bool
) -> None:
    started: list[VllmOptions] = []

    async def start(_: Bundle, options: VllmOptions) -> SimpleNamespace:
        started.append(options)
        return SimpleNamespace(died=None)

    monkeypatch.setattr("serving.llm.__main__.VllmLanguage.start", start)
    settings = parsed(*flags, "--limits.max-references", "9")
    await build(load_bundle(Path("models/mediround-lite")), settings)
    (options,) = started
    assert (options.dtype, options.chosen_rows, options.max_references) == (dtype, chosen_rows, 9)


@pytest.mark.parametrize(
    "flags",
    [
        ["--listen", "0.0.0.0:50061"],
        ["--tls.certificate", "a"],
        ["--engine", "other"],
        ["--limits.max-calls", "0"],
        ["--onnx.prefix-cache-bytes", "-1"],
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
    ],
)
def test_an_option_that_the_engine_would_not_take_is_refused_by_name(flags: list[str], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        parsed(*flags)


async def test_a_cpu_takes_every_option_that_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[VllmOptions] = []

    async def start(_: Bundle, options: VllmOptions) -> SimpleNamespace:
        started.append(options)
        return SimpleNamespace(died=None)

    monkeypatch.setattr("serving.llm.__main__.VllmLanguage.start", start)
    given = {"kv-cache-bytes": 1 << 30, "max-num-seqs": 3, "max-queued": 5}
    flags = [text for name, value in given.items() for text in (f"--vllm.{name}", str(value))]
    await build(load_bundle(Path("models/mediround-lite")), parsed("--engine", "vllm-cpu", *flags))
    (options,) = started
    assert (options.kv_cache_bytes, options.max_num_seqs, options.max_queued) == (1 << 30, 3, 5)
    assert (options.eager, options.block_size) == (True, 32)
