"""Results that a person can use: a line, a file, a picture, JSON."""

from __future__ import annotations

import copy
import gc
import io
import json
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mediround import (
    Box,
    CacheUse,
    FailedPrecondition,
    InvalidArgument,
    Reference,
    RoundResult,
    Timings,
    rle,
)
from mediround._overlay import remembered

HEIGHT, WIDTH = 40, 60
IMAGE = np.full((HEIGHT, WIDTH), 100, np.uint8)
MASK = np.zeros((HEIGHT, WIDTH), np.bool_)
MASK[10:20, 30:45] = True


def result(**changes: object) -> RoundResult:
    found = RoundResult(
        session_id="s",
        index=1,
        answer="It is the\nliver [SEG].",
        mask=MASK,
        area=150,
        box=Box(30, 10, 44, 19),
        score=0.934,
        seg_probability=0.99,
        corrected=True,
        reference=Reference(0, Box(1, 2, 9, 9), Box(4, 5, 14, 15), whole_image=False),
        timings=Timings(0, 0, 0.02, 0.01, 0.01, 0, 0.0523),
        cache=CacheUse(True, 10, 20, 1),
        model_digest="d" * 64,
        request_id="r",
        engine_digest="e" * 64,
    )
    return replace(found, **changes)


EMPTY = {"mask": None, "area": 0, "box": None, "score": None, "corrected": False, "reference": None}


def test_a_result_is_one_line() -> None:
    assert str(result()) == (
        r"round 1: 'It is the\nliver [SEG].'; 150 px; x 30 to 44, y 10 to 19; score 0.93, corrected; "
        "refers to round 0; 52 ms"
    )
    assert str(result(**EMPTY)) == r"round 1: 'It is the\nliver [SEG].'; no mask; 52 ms"
    assert "array" not in repr(result())


def test_a_mask_is_saved(tmp_path: Path) -> None:
    for path in (tmp_path / "mask.png", str(tmp_path / "again.PNG")):
        result().save(path)
        with Image.open(path) as image:
            assert (image.format, image.mode) == ("PNG", "1")
            np.testing.assert_array_equal(np.asarray(image), MASK)


@pytest.mark.parametrize("path", ["mask.jpg", "mask", "", "a\0.png", None, 5, b"mask.png"])
def test_where_a_mask_is_not_saved(path: object, tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match=r"must end in \.png"):
        result().save(path)
    with pytest.raises(FailedPrecondition, match="no mask"):
        result(**EMPTY).save(tmp_path / "mask.png")
    with pytest.raises(FileNotFoundError):
        result().save(tmp_path / "absent" / "mask.png")


def test_an_overlay_is_image_mask_and_reference() -> None:
    drawn = result().overlay(IMAGE)
    assert (drawn.shape, drawn.dtype) == ((HEIGHT, WIDTH, 3), np.uint8)
    assert (drawn[0, 0] == 100).all()
    assert drawn[15, 35, 0] > 150  # red
    assert drawn[15, 35, 1] < 100
    for x, y in ((4, 5), (14, 15), (4, 10), (9, 5)):
        assert tuple(drawn[y, x]) == (255, 208, 0)
    assert (drawn[10, 9] == 100).all()  # outlined, not filled
    np.testing.assert_array_equal(IMAGE, 100)
    np.testing.assert_array_equal(result(**EMPTY).overlay(IMAGE), 100)


@pytest.mark.parametrize("kind", ["path", "bytes", "array", "PIL", "RGB"])
def test_an_overlay_of_any_image(kind: str, tmp_path: Path) -> None:
    picture = Image.fromarray(IMAGE)
    picture.save(tmp_path / "slice.png")
    image = {
        "path": str(tmp_path / "slice.png"),
        "bytes": (tmp_path / "slice.png").read_bytes(),
        "array": IMAGE,
        "PIL": picture,
        "RGB": np.repeat(IMAGE[..., None], 3, 2),
    }[kind]
    np.testing.assert_array_equal(result().overlay(image), result().overlay(IMAGE))
    known = result(_source=remembered(image))
    if kind == "bytes":
        with pytest.raises(FailedPrecondition, match="pass it"):
            known.overlay()
    else:
        np.testing.assert_array_equal(known.overlay(), result().overlay(IMAGE))


def test_an_overlay_that_cannot_be() -> None:
    with pytest.raises(FailedPrecondition, match="pass it"):
        result().overlay()
    with pytest.raises(InvalidArgument, match="of the mask's size"):
        result().overlay(IMAGE.T.copy())
    with pytest.raises(InvalidArgument, match="cannot be shown"):
        result().overlay(b"no image")
    with pytest.raises(InvalidArgument, match="masked"):
        result().overlay(np.ma.masked_less(IMAGE, 3))


def test_a_result_does_not_keep_its_image() -> None:
    image = IMAGE.copy()
    known = result(_source=remembered(image))
    known.overlay()
    del image
    gc.collect()
    with pytest.raises(FailedPrecondition):
        known.overlay()
    assert known._repr_png_() is not None


def decoded(png: bytes | None) -> np.ndarray:
    assert png is not None
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image)


def test_a_notebook_shows_it() -> None:
    known = result(_source=lambda: IMAGE)
    np.testing.assert_array_equal(decoded(known._repr_png_()), known.overlay())
    np.testing.assert_array_equal(decoded(result()._repr_png_())[..., 0], MASK * 255)
    assert result(**EMPTY)._repr_png_() is None
    assert result(_source=lambda: "/absent.png")._repr_png_() is not None
    large = np.zeros((3000, 100), np.bool_)
    assert decoded(result(mask=large)._repr_png_()).shape == (1000, 34, 3)


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda r: pickle.loads(pickle.dumps(r))])  # noqa: S301
def test_a_result_crosses_processes_without_its_image(way: object) -> None:
    again = way(result(_source=lambda: IMAGE))
    np.testing.assert_array_equal(again.mask, MASK)
    assert (str(again), again._source) == (str(result()), None)


def test_json_can_hold_it() -> None:
    held = json.loads(json.dumps(result().to_dict()))
    np.testing.assert_array_equal(rle.decode(held["mask"]["counts"].encode(), *held["mask"]["size"]), MASK)
    assert held["box"] == {"x_min": 30, "y_min": 10, "x_max": 44, "y_max": 19}
    assert held["reference"]["box"]["x_max"] == 14
    assert (held["index"], held["score"], held["request_id"]) == (1, 0.934, "r")
    assert held["engine_digest"] == "e" * 64
    assert not [name for name in held if name.startswith("_")]
    assert json.loads(json.dumps(result(**EMPTY).to_dict()))["mask"] is None


def test_without_pillow_a_file_is_not_shown_and_a_mask_is_saved(tmp_path: Path) -> None:
    Image.fromarray(IMAGE).save(tmp_path / "slice.png")
    code = (
        "import sys; sys.modules['PIL'] = None; import pickle, mediround; r = pickle.load(sys.stdin.buffer)\n"
        "r.save('mask.png'); assert r._repr_png_()\n"
        "try: r.overlay('slice.png')\n"
        "except mediround.FailedPrecondition as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(result()), capture_output=True, cwd=tmp_path, check=True
    )
    assert b"pip install './clients[images]'" in done.stdout
    with Image.open(tmp_path / "mask.png") as image:
        np.testing.assert_array_equal(np.asarray(image), MASK)
