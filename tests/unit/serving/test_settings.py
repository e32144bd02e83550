"""Flags and environment, and what the server refuses to start with."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings

from serving.healthcheck import ProbeSettings
from serving.llm.settings import LanguageServerSettings
from serving.rpc.settings import problems
from serving.settings import Settings

REDIS = ["--sessions.store", "redis", "--sessions.redis"]


def parsed(*flags: str) -> Settings:
    return Settings(_cli_parse_args=["--bundle", "models/x", *flags])


def test_defaults_are_safe() -> None:
    settings = parsed()
    assert settings.bundle == Path("models/x")
    assert settings.listen == "127.0.0.1:50051"
    assert not settings.tls.enabled


def test_a_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIROUND_LIMITS__MAX_ROUNDS", "7")
    assert parsed().limits.max_rounds == 7
    assert parsed("--limits.max-rounds", "9").limits.max_rounds == 9


@pytest.mark.parametrize("listen", ["127.0.0.1:0", "localhost:1", "[::1]:50051", "127.8.0.3:80"])
def test_loopback_needs_no_tls(listen: str) -> None:
    assert parsed("--listen", listen).listen == listen


@pytest.mark.parametrize("listen", ["0.0.0.0:50051", "[::]:50051", "10.1.2.3:1", "pacs.example:1"])
def test_beyond_loopback_needs_tls_or_an_explicit_word(listen: str) -> None:
    with pytest.raises(ValidationError, match="allow-insecure-bind"):
        parsed("--listen", listen)
    assert parsed("--listen", listen, "--allow-insecure-bind").allow_insecure_bind
    assert parsed("--listen", listen, "--tls.certificate", "a", "--tls.private-key", "b").tls.enabled


def test_metrics_are_off_unless_asked_for() -> None:
    assert not parsed().metrics_listen
    assert parsed("--metrics-listen", "127.0.0.1:9464").metrics_listen == "127.0.0.1:9464"


@pytest.mark.parametrize("listen", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "pacs.example:9464"])
def test_metrics_beyond_loopback_need_an_explicit_word(listen: str) -> None:
    for flags in ([], ["--allow-insecure-bind"]):
        with pytest.raises(ValidationError, match="allow-open-metrics"):
            parsed("--metrics-listen", listen, *flags)
    assert parsed("--metrics-listen", listen, "--allow-open-metrics").metrics_listen == listen


@pytest.mark.parametrize(
    "flags",
    [
        ["--metrics-listen", "nowhere"],
        ["--log-format", "xml"],
        ["--admission.concurrency", "0"],
        ["--admission.max-wait", "0"],
        ["--tls.certificate", "a"],
        ["--tls.client-ca", "a"],
        ["--listen", "nowhere"],
        ["--limits.max-rounds", "0"],
        ["--engines.prefix-cache-bytes", "-1"],
        ["--engines.encoder", "openvino"],
        ["--engines.encoder", "onnx", "--engines.cache", "a"],
        ["--engines.cache", "a", "--vision", "triton://127.0.0.1:1"],
        ["--engines.cache", "a", "--engines.provider", "cuda"],
        ["--engines.encoder", "openvino-f32", "--vision", "triton://127.0.0.1:1"],
        ["--triton.version", "2"],
        ["--language", "grpc://127.0.0.1:1", "--engines.prefix-cache-bytes", "9"],
        ["--language", "grpc://127.0.0.1:1", "--vision", "triton://127.0.0.1:1", "--engines.threads", "2"],
        ["--language", "grpc://127.0.0.1:1", "--vision", "triton://127.0.0.1:1", "--engines.provider", "cuda"],
        ["--engines.encoder", "openvino-bf16", "--engines.provider", "cuda"],
        ["--sessions.store", "sqlite"],
        ["--sessions.path", "a.db"],
        ["--sessions.durability", "power"],
        ["--sessions.store", "sqlite", "--sessions.path", "a.db", "--sessions.images", "encrypted"],
        ["--sessions.store", "redis", "--sessions.path", "a.db"],
        ["--sessions.store", "redis"],
        ["--sessions.store", "sqlite", "--sessions.path", "a.db", "--sessions.redis-user", "a"],
        [*REDIS, "redis://10.0.0.1:6379/0"],
        [*REDIS, "redis://127.0.0.1:6379/0", "--sessions.tls.ca", "ca.pem"],
    ],
)
def test_what_does_not_fit_is_refused(flags: list[str]) -> None:
    with pytest.raises(ValidationError):
        parsed(*flags)


@pytest.mark.parametrize("flag", ["--listen", "--metrics-listen", "--language", "--vision"])
@pytest.mark.parametrize("address", ["127.0.0.1:65536", "127.0.0.1:99999", "[::1]:70000", "127.0.0.1", "a:1\n"])
def test_an_address_that_cannot_be_is_named_in_words(flag: str, address: str) -> None:
    scheme = {"--language": "grpc://", "--vision": "triton://"}.get(flag, "")
    with pytest.raises(ValidationError) as caught:
        parsed(flag, scheme + address)
    assert re.search(r"must have a port from [01] to 65535|must be HOST:PORT", problems(caught.value))


def test_no_pattern_reaches_whoever_sets_something() -> None:
    with pytest.raises(ValidationError) as caught:
        parsed("--listen", "x", "--language", "http://a:1", "--vision", "triton:a", "--triton.version", "latest")
    words = problems(caught.value)
    assert "pattern" not in words
    assert "Value error" not in words
    assert words.startswith("--listen: must be HOST:PORT")


WRONG = {
    "listen": ["bad", "--listen: must be HOST:PORT"],
    "limits.max-rounds": ["-1", "--limits.max-rounds: must be greater than 0"],
    "limits.max-calls": ["many", "--limits.max-calls: must be a valid integer"],
    "drain-seconds": ["0", "--drain-seconds: must be greater than 0"],
    "log-level": ["loud", "--log-level: must be 'debug', 'info', 'warning' or 'error'"],
    "tls.certificate": ["a", "--tls: certificate and private-key must be given together"],
    "tls.client-ca": ["a", "--tls: certificate and private-key must be given with client-ca"],
    "triton.version": ["latest", "--triton.version: must be the number of a version"],
    "metrics-listen": ["0.0.0.0:1", "--metrics-listen 0.0.0.0:1 reaches beyond loopback"],
    "sessions.path": ["a.db", "--sessions: path must be given with store sqlite"],
    "sessions.images": ["encrypted", "--sessions: all but store must be left out unless it is sqlite or redis"],
    "vllm.kv-cache-bytes": ["0", "--vllm.kv-cache-bytes: must be greater than 0"],
}


@pytest.mark.parametrize("tree", [Settings, LanguageServerSettings])
def test_a_wrong_value_is_one_plain_line_that_names_its_flag(tree: type[BaseSettings]) -> None:
    tried = WRONG.keys() & dict(flags(tree)).keys()
    assert len(tried) > 6
    for flag in tried:
        value, words = WRONG[flag]
        with pytest.raises(ValidationError) as caught:
            tree(_cli_parse_args=["--bundle", "x", f"--{flag}", value])
        line = problems(caught.value)
        assert line.startswith(words)
        assert not re.search(r"\n|Input|Value error|pattern|\^|\$|\\d|pydantic", line)


@pytest.mark.parametrize(
    "address",
    [
        "redis://:secret@127.0.0.1:1/0",
        "redis://127.0.0.1:1?password=secret",
        "unix:///a.sock?password=secret",
        "secret",
    ],
)
def test_a_password_in_an_address_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValidationError) as caught:
        parsed(*REDIS, address)
    assert "--sessions.redis: must be redis://" in problems(caught.value)
    assert "secret" not in problems(caught.value)


@pytest.mark.parametrize(
    "address", ["redis://127.0.0.1:6379", "rediss://10.0.0.1:6379/3", "unix:///run/redis.sock?db=1"]
)
def test_addresses_of_a_redis(address: str) -> None:
    assert parsed(*REDIS, address).sessions.redis == address
    assert parsed(*REDIS, "redis://10.0.0.1:6379", "--sessions.allow-insecure-redis").sessions.store == "redis"


def test_a_setting_that_is_missing_is_named() -> None:
    for tree in (Settings, LanguageServerSettings):
        with pytest.raises(ValidationError) as caught:
            tree(_cli_parse_args=[])
        assert problems(caught.value) == "--bundle: must be given"


def flags(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, FieldInfo]]:
    """Every setting in the tree, by its flag."""
    for name, field in model.model_fields.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from flags(field.annotation, flag + ".")
        else:
            yield flag, field


UNITS = {"bytes": "(?i)bytes", "pixels": "pixels", "timeout": "Seconds", "seconds": "Seconds", "wait": "Seconds"}
"""What a number's name ends with, and what its description must say."""


@pytest.mark.parametrize("tree", [Settings, LanguageServerSettings, ProbeSettings])
def test_every_setting_is_described_with_its_unit(tree: type[BaseSettings]) -> None:
    described = dict(flags(tree))
    assert len(described) >= {Settings: 47, LanguageServerSettings: 22, ProbeSettings: 6}[tree]
    for flag, field in described.items():
        words = field.description or ""
        assert len(words) > 10, f"--{flag} says nothing"
        assert re.search(r"\b(who|whoever|nobody|somebody)\b", words) is None, f"--{flag}: {words}"
        kinds = get_args(field.annotation) or (field.annotation,)
        if float in kinds:
            assert re.search("Seconds|fraction", words), f"--{flag} has no unit: {words}"
        for name, unit in UNITS.items():
            if flag.rpartition("-")[2] == name or f"-{name}-" in flag:
                assert re.search(unit, words), f"--{flag} has no unit: {words}"


def numbers(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, type]]:
    """Flags of every number in the tree."""
    for name, field in model.model_fields.items():
        flag = f"{prefix}{name.replace('_', '-')}"
        kinds = get_args(field.annotation) or (field.annotation,)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from numbers(field.annotation, flag + ".")
        elif float in kinds or int in kinds:
            yield f"--{flag}", float if float in kinds else int


@pytest.mark.parametrize("tree", [Settings, LanguageServerSettings, ProbeSettings])
def test_every_number_is_finite_and_in_bounds(tree: type[BaseSettings]) -> None:
    flags = dict(numbers(tree))
    assert float in flags.values()
    bundle = [] if tree is ProbeSettings else ["--bundle", "x"]
    for flag, kind in flags.items():
        refused = ["-1", str(10**40)] + (["inf", "-inf", "nan", "0", "1e10"] if kind is float else [])
        for number in refused:
            with pytest.raises(ValidationError):
                tree(_cli_parse_args=[*bundle, f"{flag}={number}"])
                pytest.fail(f"{flag} {number}")


def test_the_language_half_is_in_this_process_by_default() -> None:
    assert parsed().language_servers == ()


def test_language_servers() -> None:
    settings = parsed("--language", "grpc://127.0.0.1:1,[::1]:2,localhost:3")
    assert settings.language_servers == ("127.0.0.1:1", "[::1]:2", "localhost:3")
    assert not settings.language_secure
    assert parsed("--language", "grpcs://llm.example:1").language_secure


@pytest.mark.parametrize("language", ["grpc://llm.example:1", "grpc://127.0.0.1:1,10.0.0.1:1"])
def test_images_leave_this_machine_by_tls_or_an_explicit_word(language: str) -> None:
    with pytest.raises(ValidationError, match="allow-insecure-language"):
        parsed("--language", language)
    assert parsed("--language", language, "--allow-insecure-language").language_servers


@pytest.mark.parametrize(
    "flags",
    [
        ["--language", "vllm"],
        ["--language", "http://127.0.0.1:1"],
        ["--language", "grpc://127.0.0.1"],
        ["--language", "grpc://127.0.0.1:1,"],
        ["--language", "grpc://127.0.0.1:1,127.0.0.1:1"],
        ["--language", "grpc://127.0.0.1:1", "--language-tls.ca", "a"],
        ["--language", "grpcs://127.0.0.1:1", "--language-tls.certificate", "a"],
    ],
)
def test_languages_that_cannot_be(flags: list[str]) -> None:
    with pytest.raises(ValidationError):
        parsed(*flags)


def test_an_unknown_flag_is_refused() -> None:
    with pytest.raises(SystemExit):
        parsed("--limits.max-round", "3")


def test_the_vision_half_is_in_this_process_by_default() -> None:
    assert (parsed().triton_server, parsed().slab_bytes) == (None, 0)


@pytest.mark.parametrize(
    ("flags", "slab_bytes"),
    [
        (["--vision", "triton://127.0.0.1:8001"], 256 << 20),
        (["--vision", "triton://127.0.0.1:8001", "--triton.slab-bytes", "0"], 0),
        (["--vision", "triton://127.0.0.1:8001", "--engines.embedding-bytes", "9"], 9),
        (["--vision", "tritons://gpu.example:8001"], 0),
        (["--vision", "tritons://gpu.example:8001", "--triton.slab-bytes", "7"], 7),
    ],
)
def test_memory_is_shared_with_a_triton_on_loopback(flags: list[str], slab_bytes: int) -> None:
    settings = parsed(*flags)
    assert settings.triton_server == flags[1].partition("://")[2]
    assert settings.slab_bytes == slab_bytes


def test_pixels_reach_triton_by_tls_or_an_explicit_word() -> None:
    with pytest.raises(ValidationError, match="allow-insecure-vision"):
        parsed("--vision", "triton://gpu.example:8001")
    assert parsed("--vision", "triton://gpu.example:8001", "--allow-insecure-vision").allow_insecure_vision


def test_the_admin_key_is_shown_to_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDIROUND_TRITON__ADMIN_KEY", "hidden-words")
    key = parsed("--vision", "triton://127.0.0.1:8001").triton.admin_key
    assert key is not None
    assert key.get_secret_value() == "hidden-words"
    assert "hidden-words" not in repr(parsed("--vision", "triton://127.0.0.1:8001"))


@pytest.mark.parametrize(
    "flags",
    [
        ["--vision", "gpu"],
        ["--vision", "triton://a:1,b:2"],
        ["--vision", "triton://127.0.0.1:1", "--vision-tls.ca", "ca.pem"],
        ["--vision", "triton://127.0.0.1:1", "--triton.version", "latest"],
        ["--vision", "triton://127.0.0.1:1", "--triton.slab-bytes", "-1"],
        ["--vision", "triton://127.0.0.1:1", "--triton.admin-key", ""],
    ],
)
def test_visions_that_cannot_be(flags: list[str]) -> None:
    with pytest.raises(ValidationError):
        parsed(*flags)
