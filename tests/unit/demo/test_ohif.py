"""What the viewer's check compares, without a viewer: its letter and its measure; who knows the password."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from demo.dicom.orthanc import Orthanc
from demo.ohif import web
from demo.ohif.__main__ import LEAST_IOU, iou
from demo.ohif.made_up import FRAMES, ORIENTATIONS, letter, made_up_series


def test_what_is_drawn_a_frame_late_or_turned_is_seen() -> None:
    letters = [letter(frame) for frame in range(FRAMES)]
    assert all(iou(one, other) < LEAST_IOU for one, other in pairwise(letters))
    turned = [np.flip(letters[0], axis) for axis in (0, 1, (0, 1))]
    assert all(iou(letters[0], each) < LEAST_IOU for each in turned)
    assert iou(letters[0], letters[0]) == 1.0
    assert iou(np.zeros_like(letters[0]), letters[0]) == 0.0


@pytest.mark.parametrize("name", ORIENTATIONS)
def test_a_series_and_its_segmentation_name_one_another(name: str) -> None:
    series = made_up_series(name)
    [source] = series.segmentation.ReferencedSeriesSequence
    assert source.SeriesInstanceUID == series.objects[0].SeriesInstanceUID
    assert len({each.SOPInstanceUID for each in series.objects}) == FRAMES
    planes = {tuple(each.ImagePositionPatient) for each in series.objects}
    assert len(planes) == FRAMES


def test_the_browser_never_has_the_archives_password(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(web, "program", lambda name: "/bin/false")
    with pytest.raises(RuntimeError, match="nginx"), web.viewer_of(Orthanc(1, 2, "secret"), tmp_path, tmp_path):
        pass
    assert "secret" not in (tmp_path / "app-config.js").read_text()
    assert (tmp_path / "nginx.conf").stat().st_mode & 0o077 == 0
