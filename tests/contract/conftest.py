"""Real vLLM for the contract: one engine for the whole directory, started when the first test asks for it."""

from __future__ import annotations

import importlib.util
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import pytest_asyncio

from serving.bundle import Bundle
from serving.llm.vllm_engine import VllmLanguage
from serving.llm.vllm_options import ON_CPU

MAX_QUEUED = 40


def needs_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make env-vllm")


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def vllm_language(random_bundle: Bundle) -> AsyncIterator[VllmLanguage]:
    """On the random bundle. It lives in the session's event loop, so its tests do too."""
    needs_vllm()
    engine = await VllmLanguage.start(random_bundle, replace(ON_CPU, max_queued=MAX_QUEUED))
    yield engine
    await engine.close()
