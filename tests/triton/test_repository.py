"""The committed model repository: what it says, and that it is written from its source."""

from __future__ import annotations

from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from exporters.errors import SourceError
from exporters.triton_repository import BatchLimits, published, read_limits
from tests.conftest import REPOSITORY

COMMITTED = REPOSITORY / "model_repository"
CONFIGS = sorted(path.relative_to(COMMITTED).as_posix() for path in COMMITTED.rglob("*.pbtxt"))
MODELS = ("image_encoder", "mask_decoder")


def config_of(path: Path) -> model_config_pb2.ModelConfig:
    return text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())


def test_it_is_what_its_source_writes() -> None:
    assert {name: (COMMITTED / name).read_text() for name in CONFIGS} == published()


@pytest.mark.parametrize("model", MODELS)
def test_production_runs_plans_wherever_triton_puts_them(model: str) -> None:
    config = config_of(COMMITTED / model / "config.pbtxt")
    assert (config.name, config.platform) == (model, "tensorrt_plan")
    assert config.default_model_filename == "model.plan"
    assert config.cc_model_filenames["9.0"] == "model_sm90.plan"
    assert not config.instance_group
    assert config.model_warmup
    queue = config.dynamic_batching
    assert queue.priority_levels == 2
    for policy in (queue.default_queue_policy, queue.priority_queue_policy[2]):
        assert 0 < policy.max_queue_size <= 256
        assert policy.default_timeout_microseconds > 0


def test_its_limits_can_be_read(tmp_path: Path) -> None:
    assert read_limits(COMMITTED / "image_encoder" / "config.pbtxt") == BatchLimits(2, None)
    assert read_limits(COMMITTED / "mask_decoder" / "config.pbtxt") == BatchLimits(8, 4)
    with pytest.raises(SourceError, match="exporters repository"):
        read_limits(tmp_path / "config.pbtxt")
