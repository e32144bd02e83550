"""A bundle that does not fit is refused with words that say what differs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving.bundle import REQUIRED_FILES, VLLM_FILES, BundleError, file_digest, load_bundle
from tests.unit.serving.manifests import manifest


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in REQUIRED_FILES:
        (tmp_path / name).write_bytes(name.encode())
    digests = {name: file_digest(tmp_path / name) for name in REQUIRED_FILES}
    (tmp_path / "manifest.json").write_text(manifest(files=digests).model_dump_json())
    return tmp_path


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
    (directory / "mask_decoder.onnx").write_bytes(b"other")
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
    files = dict.fromkeys(REQUIRED_FILES, "0" * 64) | {"../secret": "0" * 64}
    with pytest.raises(BundleError, match=r"\.\./secret: lies outside"):
        load_bundle(changed(directory, files=files))


def test_a_link_out_of_the_bundle_is_refused(directory: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    secret = tmp_path_factory.mktemp("other") / "secret"
    secret.write_bytes(b"mask_decoder.onnx")  # the digest fits
    (directory / "mask_decoder.onnx").unlink()
    (directory / "mask_decoder.onnx").symlink_to(secret)
    with pytest.raises(BundleError, match=r"mask_decoder\.onnx: lies outside"):
        load_bundle(directory)


def test_an_absolute_path_is_refused(directory: Path) -> None:
    files = dict.fromkeys(REQUIRED_FILES, "0" * 64) | {"/etc/hostname": "0" * 64}
    with pytest.raises(BundleError, match=r"/etc/hostname: lies outside"):
        load_bundle(changed(directory, files=files))


def with_vllm(directory: Path) -> Path:
    (directory / "vllm").mkdir()
    for name in VLLM_FILES:
        (directory / name).write_bytes(name.encode())
    files = {name: file_digest(directory / name) for name in (*REQUIRED_FILES, *VLLM_FILES)}
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


def test_nothing_else_may_lie_where_vllm_reads(directory: Path) -> None:
    bundle = load_bundle(with_vllm(directory))
    (directory / "vllm" / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(BundleError, match=r"remove: vllm/pytorch_model\.bin"):
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
    ],
)
def test_a_manifest_that_does_not_fit(directory: Path, change: dict[str, object], message: str) -> None:
    with pytest.raises(BundleError, match=message):
        load_bundle(changed(directory, **change))


def test_no_manifest(tmp_path: Path) -> None:
    with pytest.raises(BundleError, match="is --bundle right"):
        load_bundle(tmp_path)
