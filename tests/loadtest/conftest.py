"""Scenarios in few words, and runs of them against the scripted server."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from loadtest.run import RunResult, Subject, run
from loadtest.scenario import Scenario
from serving.api.server import serving
from tests.loadtest.scripted import ScriptedServer

Against = Callable[..., Any]


def scenario(rate: float = 10.0, duration: float = 1.0, **sections: Any) -> Scenario:
    """Single rounds on small images at even times, unless ``sections`` say otherwise."""
    arrivals = {"process": "constant", "rate": rate, "duration": duration} | sections.pop("arrivals", {})
    dialogues = {"rounds": (1, 1)} | sections.pop("dialogues", {})
    images = {"size": (16, 16)} | sections.pop("images", {})
    # A loaded test machine wakes late; what that means is a test of its own.
    generator = {"late": 5.0} | sections.pop("generator", {})
    given = {
        "name": "test",
        "arrivals": arrivals,
        "dialogues": dialogues,
        "images": images,
        "generator": generator,
    }
    return Scenario.model_validate_json(json.dumps(given | sections))


@pytest.fixture
def against(tmp_path: Path) -> Against:
    """Runs a scenario against a scripted server."""

    async def ran(server: ScriptedServer, asked: Scenario, seed: int = 0) -> RunResult:
        async with serving(server, drain_seconds=0.5) as running:
            return await run(Subject(running.address), asked, tmp_path, seed)

    return ran
