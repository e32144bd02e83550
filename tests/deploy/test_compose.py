"""What compose and the images say to our programs, held to what those understand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import BaseModel
from pydantic_settings import BaseSettings

from serving.healthcheck import ProbeSettings
from serving.llm.settings import LanguageServerSettings
from serving.settings import Settings
from tests.conftest import REPOSITORY

COMPOSE = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
SCRAPES = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
PROGRAMS: dict[str, type[BaseSettings]] = {
    "orchestrator-cpu": Settings,
    "orchestrator-gpu": Settings,
    "language": LanguageServerSettings,
}


def image_environment(target: str) -> dict[str, str]:
    """``ENV`` of a target of the Dockerfile."""
    text = (REPOSITORY / "Dockerfile").read_text()
    stage = re.search(rf"^FROM \S+ AS {target}$.*?(?=^FROM |\Z)", text, re.M | re.S)
    assert stage
    block = re.search(r"^ENV (.*?)(?<!\\)\n", stage[0], re.M | re.S)
    assert block
    return dict(word.split("=", 1) for word in block[1].split() if word != "\\")


def environment(service: str) -> dict[str, str]:
    """Of the image, then of the service."""
    return image_environment(service.partition("-")[0]) | COMPOSE["services"][service]["environment"]


def understood(name: str, programs: tuple[type[BaseSettings], ...]) -> bool:
    for program in programs:
        prefix = program.model_config.get("env_prefix", "")
        fields: Any = program.model_fields
        parts = name.removeprefix(prefix).lower().split("__")
        if not name.startswith(prefix) or parts[0] not in fields:
            continue
        for part in parts[:-1]:
            section = fields[part].annotation
            fields = section.model_fields if issubclass(section, BaseModel) else {}
        return parts[-1] in fields
    return False


@pytest.mark.parametrize("service", PROGRAMS)
def test_every_variable_is_understood_and_the_whole_is_accepted(
    service: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    program, given = PROGRAMS[service], environment(service)
    ours = {name: value for name, value in given.items() if name.startswith("MEDIROUND_")}
    assert [name for name in ours if not understood(name, (ProbeSettings, program))] == []
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    settings = program()
    probe = ProbeSettings()
    assert probe.address.rpartition(":")[2] == settings.listen.rpartition(":")[2]  # type: ignore[attr-defined]  # both have it
    assert (probe.tls.ca is not None) == settings.tls.enabled  # type: ignore[attr-defined]  # both have it


def test_a_variable_that_nobody_understands_is_found() -> None:
    assert not understood("MEDIROUND_LIMITS__MAX_ROUND", (ProbeSettings, Settings))
    assert not understood("MEDIROUND_HEALTH_PORT", (ProbeSettings, Settings))


@pytest.mark.parametrize("service", PROGRAMS)
def test_prometheus_scrapes_where_it_listens(service: str) -> None:
    name = service.partition("-")[0]
    (scrape,) = [s for s in SCRAPES if s["dns_sd_configs"][0]["names"] == [name]]
    listens = next(value for key, value in environment(service).items() if key.endswith("METRICS_LISTEN"))
    assert listens.rpartition(":")[2] == str(scrape["dns_sd_configs"][0]["port"])


@pytest.mark.parametrize("service", COMPOSE["services"])
def test_no_service_has_rights_or_room_without_limit(service: str) -> None:
    said = COMPOSE["services"][service]
    assert said["read_only"]
    assert said["cap_drop"] == ["ALL"]
    assert not said["user"].startswith(("0", "root"))
    assert set(said["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert said["restart"] == "unless-stopped"
    assert not said["image"].endswith(":latest")
    assert ":" in said["image"]


def test_only_what_compose_ignores_is_secret() -> None:
    ignored = (Path(REPOSITORY) / ".gitignore").read_text().splitlines()
    assert "deploy/secrets/" in ignored
