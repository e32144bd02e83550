"""Real vLLM for the contract: one for the whole directory, started when the first test asks for it.

It is started with chosen rows, and asked through two engines: one that chooses them, one that does not. Engines of
their own, started without, run in tests/parity, tests/llm and where tests/contract/test_vllm.py ends them.
"""

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
OPTIONS = replace(ON_CPU, max_queued=MAX_QUEUED)


def needs_vllm() -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed: make env-vllm")


@pytest_asyncio.fixture(scope="package", loop_scope="session")
async def vllm_with_rows(random_bundle: Bundle) -> AsyncIterator[VllmLanguage]:
    """On the random bundle. It lives in the session's event loop, so its tests do too."""
    needs_vllm()
    engine = await VllmLanguage.start(random_bundle, OPTIONS)
    yield engine
    await engine.close()


@pytest.fixture(scope="package")
def vllm_language(vllm_with_rows: VllmLanguage, random_bundle: Bundle) -> VllmLanguage:
    """The same vLLM, asked as without chosen rows."""
    apart = replace(OPTIONS, chosen_rows=False)
    return VllmLanguage(vllm_with_rows._core, random_bundle.manifest, apart)
