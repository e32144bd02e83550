"""The command that builds plans: what it keeps, places and refuses.

Real builds go through TensorRT-RTX. What only ``tensorrt`` does, on a GPU, is shown with a module of the same
attributes: timing cache, loading, placing.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from exporters.__main__ import main
from exporters.cli import vision
from exporters.errors import SourceError
from exporters.tensorrt import plans, triton_release
from exporters.tensorrt.build import Builder, BuildPaths, build_plans, check_plans, profile_for
from exporters.tensorrt.compiler import BuildError, Compiler, Range
from exporters.tensorrt.gpu import Gpu, NoGpuError, find_gpu, parse_gpus
from exporters.triton_repository import BatchLimits
from serving.bundle import IMAGE_ENCODER, MASK_DECODER, Bundle
from tests.scripted.tensorrt import ACTIVATION, TensorRt

H100 = Gpu("9.0", "NVIDIA H100", "580.1", 80 << 30)


@pytest.fixture
def trt() -> TensorRt:
    return TensorRt()


@pytest.fixture
def workshop(trt: TensorRt) -> Builder:
    return Builder(Compiler(trt), H100)


@pytest.fixture
def places(random_bundle: Bundle, tmp_path: Path) -> BuildPaths:
    main(["repository", "--bundle", str(random_bundle.directory), "--out", str(tmp_path / "repository")])
    return BuildPaths(tmp_path / "repository", tmp_path / "plans")


@pytest.fixture
def told() -> list[str]:
    return []


Build = Callable[[], list[Path]]


@pytest.fixture
def build(random_bundle: Bundle, places: BuildPaths, workshop: Builder, told: list[str]) -> Build:
    return lambda: build_plans(random_bundle, places, workshop, told.append)


def test_both_plans_are_where_triton_looks(
    build: Build, places: BuildPaths, workshop: Builder, told: list[str]
) -> None:
    build()
    for model in ("image_encoder", "mask_decoder"):
        plan = places.repository / model / "1" / "model_sm90.plan"
        assert plan.read_bytes() == f"plan of {model}.onnx".encode()
        sidecar = plans.read(plan)
        assert (sidecar.gpu, sidecar.driver, sidecar.capability) == (H100.name, H100.driver, "9.0")
        assert sidecar.activation == ACTIVATION
    assert "TensorRT warns: a warning" in told
    sizes = r"built in \d+\.\d s, 0\.0 MB, activations 536\.9 MB"
    assert sum(bool(re.fullmatch(sizes, line)) for line in told) == 2
    assert len(check_plans(places.repository, workshop.host, workshop.compiler, told.append)) == 2
    assert told[-1].endswith("is for this host")


@pytest.mark.parametrize("flags", [{"TF32": "tf32"}, {}])
def test_float32_is_not_tf32(
    build: Build, trt: TensorRt, monkeypatch: pytest.MonkeyPatch, flags: dict[str, str]
) -> None:
    """A release without the flag has nothing to clear."""
    monkeypatch.setattr(trt, "BuilderFlag", SimpleNamespace(**flags), raising=False)
    build()
    assert trt.cleared == [*flags.values()] * 2


def test_what_is_built_is_kept(build: Build, trt: TensorRt, told: list[str]) -> None:
    assert build() == build()
    assert trt.builds == [IMAGE_ENCODER, MASK_DECODER]
    assert sum(line.startswith("kept") for line in told) == 2


def test_another_limit_of_the_configuration_is_another_build(
    build: Build, places: BuildPaths, trt: TensorRt
) -> None:
    build()
    config = places.repository / "image_encoder" / "config.pbtxt"
    config.write_text(config.read_text().replace("max_batch_size: 2", "max_batch_size: 8"))
    build()
    assert trt.builds == [IMAGE_ENCODER, MASK_DECODER, IMAGE_ENCODER]


def test_a_damaged_plan_is_built_again(build: Build, trt: TensorRt) -> None:
    build()[0].write_bytes(b"damaged")
    build()
    assert trt.builds == [IMAGE_ENCODER, MASK_DECODER, IMAGE_ENCODER]


def test_the_timing_cache_goes_from_build_to_build(build: Build, trt: TensorRt) -> None:
    build()
    assert trt.caches == [b"", b"+"]


def test_a_timing_cache_of_another_gpu_is_ignored(build: Build, trt: TensorRt, places: BuildPaths) -> None:
    places.plans.mkdir()
    (places.plans / f"timings-{trt.__version__}-9.0.cache").write_bytes(b"foreign")
    trt.foreign_caches = {b"foreign"}
    build()
    assert trt.caches == [b"foreign", b"", b"+"]


def test_a_workspace_is_a_limit(random_bundle: Bundle, places: BuildPaths, trt: TensorRt) -> None:
    build_plans(random_bundle, places, Builder(Compiler(trt), H100, 1 << 30), lambda _: None)
    assert trt.pools == [("workspace", 1 << 30)] * 2


def test_a_plan_that_does_not_load_is_not_written(build: Build, trt: TensorRt, places: BuildPaths) -> None:
    trt.loads = False
    with pytest.raises(BuildError, match="does not load here: incompatible device"):
        build()
    assert not places.plans.exists()


def test_a_plan_that_loads_no_more_is_refused(
    build: Build, trt: TensorRt, places: BuildPaths, workshop: Builder
) -> None:
    build()
    trt.loads = False
    with pytest.raises(BuildError, match="does not load here"):
        check_plans(places.repository, workshop.host, workshop.compiler, lambda _: None)


@pytest.mark.parametrize("here", ["11.4.0.106", None])
def test_plans_are_checked_for_the_servers_tensorrt_whichever_is_here(
    build: Build, places: BuildPaths, workshop: Builder, told: list[str], here: str | None
) -> None:
    """Another than the server's is not asked to load them."""
    build()
    server = workshop.host
    other = TensorRt()
    other.__version__, other.loads = here or "", False
    assert len(check_plans(places.repository, server, Compiler(other) if here else None, told.append)) == 2
    assert told[-1].endswith(f"by its sidecar; not loaded, for TensorRT here is {here or 'none'}")
    with pytest.raises(plans.PlanError, match=r"TensorRT version 10\.16\.1\.11, not 11\.4\.0\.106"):
        check_plans(places.repository, replace(server, version="11.4.0.106"), Compiler(other), told.append)


def test_another_bundles_repository_is_refused(build: Build, places: BuildPaths) -> None:
    config = places.repository / "mask_decoder" / "config.pbtxt"
    before, key, after = config.read_text().partition('graph_sha256" value { string_value: "')
    config.write_text(before + key + "0" * 64 + after[64:])
    with pytest.raises(SourceError, match="another bundle's"):
        build()


def test_profiles_reach_the_configurations_limits(random_bundle: Bundle) -> None:
    side = random_bundle.manifest.image.side
    encoder = profile_for(random_bundle.manifest, IMAGE_ENCODER, BatchLimits(2, None))
    assert encoder == {
        "image_u8": Range((1, side, side, 3), (1, side, side, 3), (2, side, side, 3)),
        "valid_hw": Range((1, 2), (1, 2), (2, 2)),
    }
    decoder = profile_for(random_bundle.manifest, MASK_DECODER, BatchLimits(8, 4))
    assert decoder["threshold"] == Range((1, 1), (4, 1), (8, 4))
    assert profile_for(random_bundle.manifest, MASK_DECODER, BatchLimits(2, 4))["threshold"].usual == (2, 1)


def command(places: BuildPaths, *more: str) -> list[str]:
    return ["tensorrt", "--repository", str(places.repository), "--plans", str(places.plans), *more]


RTX = ("--runtime", "tensorrt_rtx", "--capability", "8.9")


def test_the_command_builds_for_real(
    random_bundle: Bundle, places: BuildPaths, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = str(random_bundle.directory)
    assert main(command(places, "--bundle", bundle, "--precision", "fp32", *RTX)) == 0
    made = [Path(line) for line in capsys.readouterr().out.splitlines()]
    assert [path.name.partition("-")[0] for path in made] == ["image_encoder", "mask_decoder"]
    sidecar = json.loads(plans.beside(made[1]).read_text())
    assert sidecar["bundle"] == random_bundle.digest
    assert sidecar["profile"]["seg_features"] == [[1, 1, 256], [4, 1, 256], [8, 4, 256]]
    assert sidecar["activation"] > 1_000_000
    assert not list(places.repository.rglob("*.plan")), "Triton cannot load plans of TensorRT-RTX"
    assert main(["tensorrt", "--repository", str(places.repository), "--check", "--capability", "8.9"]) == 2
    assert "no model_sm89.plan" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ((), "name a --bundle to build, or --check"),
        (("--bundle", "BUNDLE", "--check", *RTX), "name a --bundle to build, or --check"),
        (("--bundle", "BUNDLE", "--precision", "bf16", *RTX), "exporters vision"),
        (("--bundle", "BUNDLE", "--runtime", "tensorrt", "--capability", "9.0"), "tensorrt is not there"),
        (("--bundle", "BUNDLE", "--runtime", "tensorrt_rtx", "--capability", "9.0"), "does not build for 9.0"),
    ],
)
def test_the_command_says_what_is_wrong(
    random_bundle: Bundle,
    places: BuildPaths,
    capsys: pytest.CaptureFixture[str],
    more: tuple[str, ...],
    words: str,
) -> None:
    bundle = str(random_bundle.directory)
    assert main(command(places, *(bundle if word == "BUNDLE" else word for word in more))) == 2
    assert words in capsys.readouterr().err


def test_a_tensorrt_whose_plans_the_server_cannot_load_builds_none(
    random_bundle: Bundle,
    places: BuildPaths,
    trt: TensorRt,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    trt.__version__ = "11.4.0.106"
    monkeypatch.setattr(vision, "_module", {"tensorrt": trt}.__getitem__)
    asked = command(places, "--bundle", str(random_bundle.directory), "--capability", "9.0")
    assert main(asked) == 2
    assert f"install {triton_release.WHEEL}, or name the server's" in capsys.readouterr().err
    assert trt.builds == []
    assert main([*asked, "--server-tensorrt", "11.4.0.106"]) == 0
    assert trt.builds == [IMAGE_ENCODER, MASK_DECODER]


def test_the_gpu_is_asked_of_its_driver(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    command = tmp_path / "nvidia-smi"
    command.write_text("#!/bin/sh\necho 'NVIDIA H100 80GB HBM3, 9.0, 580.95.05, 81559'\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert find_gpu() == Gpu("9.0", "NVIDIA H100 80GB HBM3", "580.95.05", 81559 << 20)
    command.write_text("#!/bin/sh\nexit 9\n")
    with pytest.raises(NoGpuError, match="nvidia-smi failed"):
        find_gpu()


def test_several_architectures_are_not_chosen_between() -> None:
    both = parse_gpus("A, 9.0, 1, 80\nB, 9.0, 1, 40\n")
    assert (both.capability, both.memory) == ("9.0", 40 << 20)
    with pytest.raises(NoGpuError, match="several architectures"):
        parse_gpus("A, 9.0, 1, 80\nB, 8.9, 1, 80\n")


def test_a_gpu_that_has_its_hosts_memory_says_no_size() -> None:
    assert parse_gpus("NVIDIA GB10, 12.1, 580.1, [N/A]\n") == Gpu("12.1", "NVIDIA GB10", "580.1")


@pytest.mark.parametrize("said", ["", "\n", "No devices were found\n"])
def test_no_gpu_is_an_error(said: str) -> None:
    with pytest.raises(NoGpuError, match="lists no GPU"):
        parse_gpus(said)
