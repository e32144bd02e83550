"""A bundle that does not fit is refused with words that say what differs."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest

from serving.bundle import (
    LANGUAGE_GRAPHS,
    LANGUAGE_MODEL,
    MASK_DECODER,
    REQUIRED_FILES,
    BundleError,
    file_digest,
    load_bundle,
)
from tests.unit.serving.manifests import manifest

FILES = (*REQUIRED_FILES, *LANGUAGE_GRAPHS)
VLLM_FILES = ("vllm/config.json", "vllm/model.safetensors")


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in FILES:
        (tmp_path / name).write_bytes(graph() if name.endswith(".onnx") else name.encode())
    digests = {name: file_digest(tmp_path / name) for name in FILES}
    (tmp_path / "manifest.json").write_text(manifest(files=digests).model_dump_json())
    return tmp_path


def graph(*external: str) -> bytes:
    """A graph that refers to the files named."""
    made = onnx.ModelProto(producer_name="made up")
    for name in external:
        tensor = made.graph.initializer.add(data_location=onnx.TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value=name)
    return made.SerializeToString()


def changed(directory: Path, **values: object) -> Path:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))
    return directory


def test_a_whole_bundle_loads(directory: Path) -> None:
    bundle = load_bundle(directory)
    assert bundle.manifest.name == "made-up"
    assert bundle.digest == file_digest(directory / "manifest.json")


def test_every_byte_is_in_the_digest(directory: Path) -> None:
    before = load_bundle(directory).digest
    assert load_bundle(changed(directory, version="1")).digest != before


def test_a_changed_file_is_refused(directory: Path) -> None:
    (directory / "mask_decoder.onnx").write_bytes(graph("other"))
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx: SHA-256 is"):
        load_bundle(directory)


def test_all_problems_are_named_at_once(directory: Path) -> None:
    (directory / "mask_decoder.onnx").unlink()
    (directory / "tokenizer.model").write_bytes(b"")
    with pytest.raises(
        BundleError, match=r"tokenizer\.model: SHA-256.*; .*mask_decoder\.onnx: missing|missing.*SHA"
    ):
        load_bundle(directory)


def test_a_file_outside_the_bundle_is_refused(directory: Path) -> None:
    files = dict.fromkeys(FILES, "0" * 64) | {"../secret": "0" * 64}
    with pytest.raises(BundleError, match=r"\.\./secret: lies outside"):
        load_bundle(changed(directory, files=files))


@pytest.mark.parametrize("name", ["vllm/../../secret", "a/../mask_decoder.onnx", ".."])
def test_a_name_that_climbs_is_refused(directory: Path, name: str) -> None:
    files = dict.fromkeys(FILES, "0" * 64) | {name: "0" * 64}
    with pytest.raises(BundleError, match=rf"{re.escape(name)}: lies outside"):
        load_bundle(changed(directory, files=files))


def hub_snapshot(bundle: Path, store: Path) -> Path:
    """As huggingface_hub (and DVC, git-annex) keep it: each file a relative link into a store of blobs."""
    (store / "blobs").mkdir()
    for number, name in enumerate(["manifest.json", *FILES, *VLLM_FILES]):
        shutil.copy(bundle / name, store / "blobs" / str(number))
        link = store / "snapshots" / "abc" / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(store / "blobs" / str(number), link.parent))
    return store / "snapshots" / "abc"


def mounted_volume(bundle: Path, store: Path) -> Path:
    """As Kubernetes mounts it: ..data is a link to a dated directory, and each entry one into ..data."""
    shutil.copytree(bundle, store / "..2026_11_29")
    (store / "..data").symlink_to("..2026_11_29")
    for path in (store / "..data").iterdir():
        (store / path.name).symlink_to(Path("..data") / path.name)
    return store


def mounted_volumes(bundle: Path, store: Path) -> Path:
    """The directory for vLLM is a volume of its own."""
    shutil.copytree(bundle, store / "bundle")
    shutil.rmtree(store / "bundle" / "vllm")
    (store / "bundle" / "vllm").mkdir()
    mounted_volume(bundle / "vllm", store / "bundle" / "vllm")
    return store / "bundle"


def absolute_links(bundle: Path, store: Path) -> Path:
    for name in ["manifest.json", *FILES, "vllm"]:
        (store / name).symlink_to((bundle / name).absolute())
    return store


@pytest.mark.parametrize("layout", [hub_snapshot, mounted_volume, mounted_volumes, absolute_links])
def test_a_bundle_of_links_is_served_since_digests_vouch_for_its_bytes(
    directory: Path, tmp_path_factory: pytest.TempPathFactory, layout: Callable[[Path, Path], Path]
) -> None:
    linked = layout(with_vllm(directory), tmp_path_factory.mktemp("store"))
    bundle = load_bundle(linked)
    assert bundle.vllm_model() == linked / "vllm"
    decoder = bundle.path("mask_decoder.onnx").resolve()
    decoder.write_bytes(graph("other"))
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx: SHA-256 is"):
        load_bundle(linked)


def test_links_that_lead_to_no_file_are_named(directory: Path) -> None:
    (directory / "mask_decoder.onnx").unlink()
    (directory / "mask_decoder.onnx").symlink_to("mask_decoder.onnx")
    (directory / "tokenizer.model").unlink()
    (directory / "tokenizer.model").symlink_to("nowhere")
    with pytest.raises(BundleError) as caught:
        load_bundle(directory)
    for name in ("mask_decoder.onnx", "tokenizer.model"):
        assert f"{name}: is a link that leads to no file" in str(caught.value)


def test_an_absolute_path_is_refused(directory: Path) -> None:
    files = dict.fromkeys(FILES, "0" * 64) | {"/etc/hostname": "0" * 64}
    with pytest.raises(BundleError, match=r"/etc/hostname: lies outside"):
        load_bundle(changed(directory, files=files))


def with_vllm(directory: Path) -> Path:
    (directory / "vllm").mkdir()
    for name in VLLM_FILES:
        (directory / name).write_bytes(name.encode())
    files = {name: file_digest(directory / name) for name in (*FILES, *VLLM_FILES)}
    return changed(directory, files=files)


def test_the_directory_for_vllm_is_part_of_the_bundle(directory: Path) -> None:
    assert load_bundle(with_vllm(directory)).vllm_model() == directory / "vllm"
    (directory / "vllm" / "config.json").write_bytes(b"{}")
    with pytest.raises(BundleError, match=r"vllm/config\.json: SHA-256 is"):
        load_bundle(directory)


def test_without_it_the_bundle_loads_and_names_the_fix(directory: Path) -> None:
    bundle = load_bundle(directory)
    with pytest.raises(BundleError, match="exporters bundle"):
        bundle.vllm_model()


@pytest.mark.parametrize(
    "shards", [("model.safetensors",), ("model-1-of-2.safetensors", "model-2-of-2.safetensors")]
)
def test_a_bundle_for_vllm_alone_names_what_the_onnx_engine_lacks(
    directory: Path, shards: tuple[str, ...]
) -> None:
    (directory / "vllm").mkdir()
    names = ("vllm/config.json", *(f"vllm/{name}" for name in shards))
    for name in names:
        (directory / name).write_bytes(name.encode())
    files = {name: file_digest(directory / name) for name in (*REQUIRED_FILES, *names)}
    bundle = load_bundle(changed(directory, files=files))
    assert bundle.vllm_model() == directory / "vllm"
    with pytest.raises(BundleError, match=r"holds no vision_tower\.onnx, language_model\.onnx.*--language both"):
        bundle.language_graphs()


@pytest.mark.parametrize("listed", [(), (LANGUAGE_MODEL,), ("vllm/model.safetensors",), ("vllm/config.json",)])
def test_one_form_of_the_language_half_must_be_whole(directory: Path, listed: tuple[str, ...]) -> None:
    with_vllm(directory)
    files = {name: file_digest(directory / name) for name in (*REQUIRED_FILES, *listed)}
    with pytest.raises(BundleError, match=r"language_model\.onnx: not listed in the manifest, and no vllm/"):
        load_bundle(changed(directory, files=files))


def test_nothing_else_may_lie_where_vllm_reads(directory: Path) -> None:
    bundle = load_bundle(with_vllm(directory))
    (directory / "vllm" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"remove: vllm/pytorch_model\.bin"):
        bundle.vllm_model()
    (directory / "vllm" / "pytorch_model.bin").unlink()
    (directory / "vllm" / "more").symlink_to(directory)
    with pytest.raises(BundleError, match="remove: vllm/more"):
        bundle.vllm_model()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema_version": 2}, "schema_version"),
        ({"image": {"side": 0}}, "image.side"),
        ({"surprise": 1}, "surprise"),
        ({"files": {}}, "not listed"),
        ({"tokens": {"bos": 1, "eos": 2, "seg": 3, "bbox": 4, "crop": 5, "image": 6}}, r"tokens\.image is 6"),
        ({"tokens": {"bos": 1, "eos": 2, "seg": 3, "bbox": 4, "crop": 3, "image": 2**21}}, "one id"),
        ({"answers": {"default_mode": "free", "template": "It is."}}, r"answers\.template.*exactly once"),
        ({"answers": {"default_mode": "free", "template": "[SEG] [SEG]"}}, r"answers\.template.*exactly once"),
        ({"answers": {"default_mode": "free", "template": "[INST] [SEG]"}}, r"answers\.template.*only marker"),
        ({"answers": {"default_mode": "free"}}, r"answers\.template_trained: Field required"),
        (
            {"answers": {"default_mode": "forced", "template_trained": False}},
            "needs a trained template",
        ),
    ],
)
def test_a_manifest_that_does_not_fit(directory: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(changed(directory, **change))


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is --bundle right"):
        load_bundle(tmp_path)


def with_external(directory: Path, name: str = LANGUAGE_MODEL, *refers_to: str, listed: bool = True) -> Path:
    (directory / name).write_bytes(graph(*(refers_to or (f"{name}.data",))))
    (directory / f"{name}.data").write_bytes(bytes(3000))
    files = dict(json.loads((directory / "manifest.json").read_text())["files"])
    files |= {name: file_digest(directory / name)}
    files |= {f"{name}.data": file_digest(directory / f"{name}.data")} if listed else {}
    return changed(directory, files=files)


@pytest.mark.parametrize("at", [0, 1500, 2999])
def test_a_changed_byte_of_external_data_is_refused(directory: Path, at: int) -> None:
    load_bundle(with_external(directory))
    data = directory / f"{LANGUAGE_MODEL}.data"
    data.write_bytes(data.read_bytes()[:at] + b"\1" + data.read_bytes()[at + 1 :])
    with pytest.raises(BundleError, match=r"language_model\.onnx\.data: SHA-256 is"):
        load_bundle(directory)


def test_external_data_must_be_listed(directory: Path) -> None:
    with pytest.raises(BundleError, match=r"language_model\.onnx\.data, which is not listed in the manifest"):
        load_bundle(with_external(directory, listed=False))


@pytest.mark.parametrize(
    "other", ["new-language_model.onnx.data", "../secret", "/etc/hostname", "./language_model.onnx.data"]
)
def test_a_graph_refers_to_its_own_data_alone(directory: Path, other: str) -> None:
    with pytest.raises(BundleError, match=r"must refer to language_model\.onnx\.data alone"):
        load_bundle(with_external(directory, LANGUAGE_MODEL, other))


def test_a_file_that_is_no_graph_is_refused(directory: Path) -> None:
    (directory / MASK_DECODER).write_bytes(b"<html>")
    files = {name: file_digest(directory / name) for name in FILES}
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx: is no ONNX graph"):
        load_bundle(changed(directory, files=files))


def test_a_graphs_digest_covers_its_external_data(directory: Path) -> None:
    alone = load_bundle(directory).manifest
    assert alone.graph_digest(MASK_DECODER) == alone.files[MASK_DECODER]
    first = load_bundle(with_external(directory, MASK_DECODER)).manifest.graph_digest(MASK_DECODER)
    (directory / f"{MASK_DECODER}.data").write_bytes(b"other weights")
    files = {path.name: file_digest(path) for path in directory.iterdir() if path.name != "manifest.json"}
    assert load_bundle(changed(directory, files=files)).manifest.graph_digest(MASK_DECODER) != first
