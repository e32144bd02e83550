"""Why an engine did not start: noted where it happens, read where somebody waits for it."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections.abc import Iterator

import pytest
from pydantic import TypeAdapter, ValidationError

from serving.llm.plugin import causes


@pytest.fixture
def vllm() -> Iterator[logging.Logger]:
    """A logger of one of its modules, watched."""
    root, before = logging.getLogger("vllm"), list(logging.getLogger("vllm").handlers)
    causes.watch()
    yield logging.getLogger("vllm.v1.engine.core")
    root.handlers = before


def log(logger: logging.Logger, error: Exception) -> None:
    try:
        raise error
    except Exception:
        logger.exception("EngineCore failed to start.")


def test_the_first_cause_that_says_what_it_is(vllm: logging.Logger) -> None:
    with causes.recorded() as cause:
        assert cause() is None
        log(vllm, Exception("WorkerProc failed due to an exception. See stack trace for root cause."))
        assert cause() is None
        log(vllm, ValueError("0.5 GiB KV cache is needed,\n  0.1 GiB is there"))
        log(vllm, RuntimeError("what follows from it"))
        vllm.error("no exception")
        assert cause() == "0.5 GiB KV cache is needed, 0.1 GiB is there"
    log(vllm, ValueError("later"))  # nobody waits for it
    with causes.recorded() as again:
        assert again() is None


def test_another_process_notes_it_once_however_often_it_is_told_to_watch() -> None:
    program = (
        "import logging\nfrom serving.llm.plugin import causes\ncauses.watch(); causes.watch()\n"
        "try: open('/nowhere/weights')\nexcept OSError: logging.getLogger('vllm').exception('x')\n"
        "assert len(logging.getLogger('vllm').handlers) == 1"
    )
    with causes.recorded() as cause:
        subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
        assert cause() == "FileNotFoundError: [Errno 2] No such file or directory: '/nowhere/weights'"


def test_a_cause_is_one_line() -> None:
    assert causes.in_a_line(KeyError("lm_head.weight")) == "KeyError: 'lm_head.weight'"
    assert causes.in_a_line(AssertionError()) == "AssertionError"
    assert causes.in_a_line(ValueError()) == "ValueError"
    assert len(causes.in_a_line(RuntimeError("word " * 1000))) < 700
    with pytest.raises(ValidationError) as refused:
        TypeAdapter(int).validate_python("x")
    assert causes.in_a_line(refused.value).startswith("Input should be a valid integer")
    assert "\n" not in causes.in_a_line(refused.value)
