"""What compose and the images say to our programs, held to what those understand."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis as library
import yaml
from pydantic import BaseModel, ValidationError
from pydantic_settings import BaseSettings
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from exporters.__main__ import main
from exporters.cli import vision
from exporters.tensorrt import triton_release
from exporters.tensorrt.build import Builder, BuildPaths, build_plans
from exporters.tensorrt.compiler import Compiler
from exporters.tensorrt.gpu import Gpu
from loadtest.server_process import free_port
from serving.bundle import Bundle
from serving.healthcheck import ProbeSettings
from serving.llm.settings import LanguageServerSettings
from serving.settings import Settings
from serving.stores.kept.parts import Parts
from serving.stores.kept.seal import Seal
from serving.stores.redis.server import check as check_redis
from tests.conftest import REPOSITORY
from tests.scripted.tensorrt import TensorRt

COMPOSE = yaml.safe_load((REPOSITORY / "deploy" / "compose.yaml").read_text())
SCRAPES = yaml.safe_load((REPOSITORY / "deploy" / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
PROGRAMS: dict[str, type[BaseSettings]] = {
    "orchestrator-cpu": Settings,
    "orchestrator-gpu": Settings,
    "language": LanguageServerSettings,
}
ONE_SHOT = {"plans-check"}
"""Services that end by themselves: whoever depends on one starts when it has succeeded."""


def image_environment(target: str) -> dict[str, str]:
    """``ENV`` of a target of the Dockerfile."""
    text = (REPOSITORY / "Dockerfile").read_text()
    stage = re.search(rf"^FROM \S+ AS {target}$.*?(?=^FROM |\Z)", text, re.M | re.S)
    assert stage
    block = re.search(r"^ENV (.*?)(?<!\\)\n", stage[0], re.M | re.S)
    assert block
    return dict(word.split("=", 1) for word in block[1].split() if word != "\\")


def beside(store: str) -> Any:
    """What is added where sessions are kept."""
    return yaml.safe_load((REPOSITORY / "deploy" / f"compose.{store}.yaml").read_text())


def filled(text: str, **variables: str) -> str:
    """As compose fills ``${NAME:-default}`` in."""
    return re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), text)


def environment(service: str, key: str = "key") -> dict[str, str]:
    """Of the image, then of the service, with Triton's key."""
    said = COMPOSE["services"][service]["environment"]
    ours = {name: filled(value, TRITON_ADMIN_KEY=key) for name, value in said.items()}
    return image_environment(service.partition("-")[0]) | ours


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


@pytest.mark.parametrize("store", ["redis", "sqlite"])
@pytest.mark.parametrize("service", ["orchestrator-cpu", "orchestrator-gpu"])
def test_where_sessions_are_kept_is_accepted(store: str, service: str, monkeypatch: pytest.MonkeyPatch) -> None:
    added = beside(store)["services"][service]
    for name, value in {**environment(service), **added["environment"]}.items():
        if name.startswith("MEDIROUND_"):
            assert understood(name, (ProbeSettings, Settings))
            monkeypatch.setenv(name, value)
    kept = Settings().sessions
    assert (kept.store, kept.images) == (store, "encrypted")
    assert set(added["secrets"]) == set(beside(store)["secrets"])
    files = [path for path in (kept.key_file, kept.redis_password_file) if path is not None]
    assert [str(path) for path in files] == [f"/run/secrets/{name}" for name in added["secrets"]]


def test_the_redis_is_as_the_server_wants_it(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its very command, with Debian's Redis."""
    if shutil.which("redis-server") is None:
        pytest.skip("redis-server is not installed (make debian)")
    redis, port = beside("redis")["services"]["redis"], free_port()
    (tmp_path / "redis_password").write_text("secret\n")
    places = {"/run/secrets": str(tmp_path), "/data": str(tmp_path), "$$": "$", "save": f"port {port}\nsave"}
    *shell, script = redis["command"]
    for theirs, ours in places.items():
        script = script.replace(theirs, ours)
    with subprocess.Popen([*shell, script], stdout=subprocess.DEVNULL) as process:
        try:
            client = library.Redis(port=port, password="secret", retry=Retry(ConstantBackoff(0.1), 100))  # noqa: S106
            check_redis(client, "process", Parts(Seal()), None)
            with pytest.raises(library.AuthenticationError):
                library.Redis(port=port).ping()
            assert client.config_get("save") == {"save": ""}
            assert b"secret" not in Path(f"/proc/{process.pid}/cmdline").read_bytes()
            client.close()
        finally:
            process.kill()
    assert caplog.text == ""


def test_without_tritons_key_the_orchestrator_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """And not compose, which would ask those who start profile ``cpu`` for it."""
    for name, value in environment("orchestrator-gpu", key="").items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValidationError, match="admin-key must not be empty"):
        Settings()
    assert ":?" not in re.sub(" #.*", "", (REPOSITORY / "deploy" / "compose.yaml").read_text())


def test_the_choice_of_the_image_encoder_is_kept_where_the_user_may_write() -> None:
    said = COMPOSE["services"]["orchestrator-cpu"]
    place = environment("orchestrator-cpu")["MEDIROUND_ENGINES__CACHE"]
    assert said["volumes"] == [*COMPOSE["x-orchestrator"]["volumes"], f"choices:{place}"]
    assert "choices" in COMPOSE["volumes"]
    owner = said["user"].partition(":")[0]
    text = (REPOSITORY / "Dockerfile").read_text()
    assert f"install --directory --owner {owner} --group {owner} {place}\n" in text
    assert re.search(r"mediround-serving\[cpu,\S*openvino", text)


def test_a_variable_that_nobody_understands_is_found() -> None:
    assert not understood("MEDIROUND_LIMITS__MAX_ROUND", (ProbeSettings, Settings))
    assert not understood("MEDIROUND_HEALTH_PORT", (ProbeSettings, Settings))


@pytest.mark.parametrize("service", PROGRAMS)
def test_prometheus_scrapes_where_it_listens(service: str) -> None:
    name = service.partition("-")[0]
    (scrape,) = [s for s in SCRAPES if s["dns_sd_configs"][0]["names"] == [name]]
    listens = next(value for key, value in environment(service).items() if key.endswith("METRICS_LISTEN"))
    assert listens.rpartition(":")[2] == str(scrape["dns_sd_configs"][0]["port"])


def test_prometheus_scrapes_triton_which_tells_nobody_else_by_http() -> None:
    """Without an address of their own metrics are served where HTTP is."""
    told = dict(word.removeprefix("--").split("=", 1) for word in COMPOSE["services"]["vision"]["command"])
    assert (told["metrics-address"], told["http-address"]) == ("0.0.0.0", "127.0.0.1")  # noqa: S104  # in a container
    [scrape] = [s for s in SCRAPES if s["dns_sd_configs"][0]["names"] == ["vision"]]
    assert scrape["dns_sd_configs"][0]["port"] == int(told.get("metrics-port", 8002))
    assert set(COMPOSE["services"]["prometheus"]["networks"]) & set(COMPOSE["services"]["vision"]["networks"])


@pytest.mark.parametrize("service", [*COMPOSE["services"], "redis"])
def test_no_service_has_rights_or_room_without_limit(service: str) -> None:
    said = (COMPOSE if service != "redis" else beside("redis"))["services"][service]
    assert said["read_only"]
    assert said["cap_drop"] == ["ALL"]
    assert not said["user"].startswith(("0", "root"))
    assert set(said["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert said["restart"] == ("no" if service in ONE_SHOT else "unless-stopped")
    assert not said["image"].endswith(":latest")
    assert ":" in said["image"]


def test_triton_waits_for_the_check_of_what_it_will_load() -> None:
    checks, triton = COMPOSE["services"]["plans-check"], COMPOSE["services"]["vision"]
    assert triton["depends_on"] == {"plans-check": {"condition": "service_completed_successfully"}}
    assert checks["profiles"] == triton["profiles"]
    assert checks["build"]["target"] == "exporter"
    assert checks["volumes"] == triton["volumes"]
    [gpu], [theirs] = (said["deploy"]["resources"]["reservations"]["devices"] for said in (checks, triton))
    assert gpu["device_ids"] == theirs["device_ids"]
    assert "utility" in gpu["capabilities"]
    assert checks["network_mode"] == "none"


def test_both_halves_share_a_gpu_by_one_figure() -> None:
    """vLLM takes what the check leaves to it."""
    checked = next(word for word in COMPOSE["services"]["plans-check"]["command"] if "share" in word)
    taken = environment("language")["MEDIROUND_LLM_VLLM__GPU_MEMORY_UTILIZATION"]
    assert (taken, filled(checked)) == ("0.7", "--language-share=0.7")
    assert filled(checked, MEDIROUND_LANGUAGE_SHARE="0.5") == "--language-share=0.5"
    asked = COMPOSE["services"]["plans-check"]["command"]
    reserved = [COMPOSE["services"][name]["deploy"]["resources"] for name in ("language", "vision")]
    assert asked[asked.index("--gpus") + 1 :] == [
        each["reservations"]["devices"][0]["device_ids"][0] for each in reserved
    ]


def test_the_exporter_is_given_tritons_tensorrt() -> None:
    ((argument, wheel),) = COMPOSE["services"]["plans-check"]["build"]["args"].items()
    assert filled(wheel) == triton_release.WHEEL
    text = (REPOSITORY / "Dockerfile").read_text()
    stage = re.search(r"^FROM \S+ AS exporter-environment$.*?(?=^FROM )", text, re.M | re.S)
    assert stage
    assert f"\nARG {argument}=\n" in stage[0]
    assert f'${{{argument}:+"${{{argument}}}"}}' in stage[0]


@pytest.fixture
def check(random_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """What the service does in a repository of ours, on a GPU of 9.0, with variables of compose."""
    gpu = Gpu("9.0", memory=24 << 30)
    built_with = Builder(Compiler(TensorRt()), gpu)
    main(["repository", "--bundle", str(random_bundle.directory), "--out", str(tmp_path / "models")])
    build_plans(random_bundle, BuildPaths(tmp_path / "models", tmp_path / "plans"), built_with, lambda _: None)
    command = COMPOSE["services"]["plans-check"]["command"]
    mounted = COMPOSE["services"]["plans-check"]["volumes"][0].split(":")[-2]
    monkeypatch.setattr(vision, "_module", {"tensorrt": TensorRt()}.__getitem__)
    monkeypatch.setattr(vision, "find_gpu", lambda: gpu)

    def checked(**variables: str) -> int:
        return main([filled(word, **variables).replace(mounted, str(tmp_path / "models")) for word in command])

    return checked


def test_the_check_passes_plans_that_are_for_this_host(
    check: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check() == 0
    said = capsys.readouterr().err
    assert said.count("is for this host\n") == 2
    assert "18.8 of the GPU's 24.0 GiB: vLLM (70%) 16.8 GiB" in said


def test_the_check_refuses_plans_of_another_tensorrt_than_the_servers(
    check: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(MEDIROUND_TENSORRT="11.5.0.1") == 2
    assert f"TensorRT version {triton_release.TENSORRT}, not 11.5.0.1" in capsys.readouterr().err


def test_the_check_refuses_plans_that_do_not_fit_beside_vllm(
    check: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert check(MEDIROUND_LANGUAGE_SHARE="0.92") == 2
    assert "the GPU has 24.0 GiB, and 24.1 GiB would be taken (vLLM (92%) 22.1 GiB" in capsys.readouterr().err
    assert check(MEDIROUND_LANGUAGE_SHARE="0.92", MEDIROUND_LANGUAGE_GPU="1") == 0  # another GPU


def test_the_check_refuses_other_bytes_and_what_is_missing(
    check: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = tmp_path / "models" / "mask_decoder" / "1" / "model_sm90.plan"
    plan.unlink()  # of the same bytes elsewhere
    assert check() == 2
    assert "no model_sm90.plan" in capsys.readouterr().err
    plan.write_bytes(b"another")
    assert check() == 2
    assert "other bytes than its sidecar says" in capsys.readouterr().err


def test_only_what_compose_ignores_is_secret() -> None:
    ignored = (Path(REPOSITORY) / ".gitignore").read_text().splitlines()
    assert "deploy/secrets/" in ignored
