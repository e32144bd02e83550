"""A file in two places: making a bundle anew leaves what was made of the old one."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import onnx
import pytest

from exporters.bundle import DEFAULTS, Sources, write_bundle
from exporters.hardlink import place
from exporters.onnx import export
from exporters.triton_repository import read_digest, write_repository
from serving.bundle import Bundle, file_digest, load_bundle
from tests.unit.exporters.conftest import Made

MODELS = ("image_encoder", "mask_decoder")


def test_a_repository_keeps_its_graphs_when_its_bundle_is_exported_again(
    made: Made, random_bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other graphs: one that is written in place would change under the repository's digest."""
    another = onnx.ModelProto(producer_name="another graph").SerializeToString()
    monkeypatch.setattr(export, "export", lambda graph, path, storage: path.write_bytes(another))
    bundle, repository, links = (tmp_path / name for name in ("bundle", "repository", "links"))
    shutil.copytree(random_bundle.directory, bundle)
    write_repository(load_bundle(bundle), repository)
    links.mkdir()
    for name in random_bundle.manifest.files:
        os.link(bundle / name, links / name.replace("/", "-"))
    sources = Sources(made.directory, made.directory / "llava_med", made.directory / "clip")
    again = write_bundle(sources, DEFAULTS, bundle, lambda _: None)
    for model in MODELS:
        placed = repository / model / "1" / "model.onnx"
        assert placed.samefile(links / f"{model}.onnx"), "without a link this test shows nothing"
        assert file_digest(placed) == read_digest(repository / model / "config.pbtxt")
        assert again.manifest.files[f"{model}.onnx"] != file_digest(placed)
    shared = [name for name in again.manifest.files if again.path(name).samefile(links / name.replace("/", "-"))]
    assert shared == []
    assert not list(bundle.rglob("*.unfinished"))


def test_a_file_that_is_a_link_is_placed_as_what_it_leads_to(tmp_path: Path) -> None:
    """A link that were placed itself would lead elsewhere from another directory."""
    (tmp_path / "blob").write_text("graph")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "graph").symlink_to("../blob")
    placed = tmp_path / "repository" / "model" / "1" / "graph"
    place(tmp_path / "bundle" / "graph", placed)
    assert not placed.is_symlink()
    assert placed.read_text() == "graph"
