"""The seam by which vLLM's workers sleep, against the vLLM that is installed."""

from __future__ import annotations

import inspect
from functools import partial

import pytest

pytest.importorskip("vllm", reason="vLLM is not installed: make env-vllm")

from vllm.distributed.device_communicators import shm_broadcast

from serving.llm.plugin import waiting


@pytest.fixture
def spin(monkeypatch: pytest.MonkeyPatch) -> type:
    """vLLM's own condition, put back afterwards."""
    found = shm_broadcast.SpinCondition
    own = found.func if isinstance(found, partial) else found
    monkeypatch.setattr(shm_broadcast, "SpinCondition", own)
    return own  # type: ignore[no-any-return]


def test_the_seam_is_there(spin: type) -> None:
    """A time to spin, which vLLM's queues leave at its default."""
    assert inspect.signature(spin).parameters["busy_loop_s"].default == 1
    assert "busy_loop_s" not in inspect.getsource(shm_broadcast.MessageQueue)


def test_workers_sleep_when_they_are_told_to(spin: type, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(waiting.SPIN, "0")
    waiting.obey()
    waiting.obey()  # vLLM may call a plug-in twice
    put = shm_broadcast.SpinCondition
    assert isinstance(put, partial)
    assert (put.func, put.keywords) == (spin, {"busy_loop_s": waiting.SOON})


@pytest.mark.parametrize("said", ["1", None])
def test_else_they_spin_as_vllm_has_it(spin: type, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(waiting.SPIN, raising=False)
    if said is not None:
        monkeypatch.setenv(waiting.SPIN, said)
    waiting.obey()
    assert shm_broadcast.SpinCondition is spin
