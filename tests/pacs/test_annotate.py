"""An archive as a source of batch annotation, and what was found stored in it."""

from __future__ import annotations

import json
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file

from demo.dicom.orthanc import USER, Orthanc
from mediround.__main__ import main
from mediround.testing import Script, serve


def test_an_archives_images_are_asked_and_their_masks_stored_in_it(
    orthanc: Orthanc, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = pydicom.dcmread(str(get_testdata_file("emri_small.dcm")))
    kept.StudyInstanceUID, kept.SeriesInstanceUID, kept.SOPInstanceUID = (f"2.25.7700{n}" for n in range(3))
    kept.file_meta.MediaStorageSOPInstanceUID = kept.SOPInstanceUID
    orthanc.dicomweb.store_instances([kept])
    netrc = tmp_path / "netrc"
    netrc.write_text(f"machine 127.0.0.1 login {USER} password {orthanc.password}\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    archive = f"{orthanc.url}/dicom-web"
    with serve(Script()) as server:
        job = ["--job", str(tmp_path / "job"), "--server", server.address]
        source = f"{archive}?StudyInstanceUID={kept.StudyInstanceUID}"
        assert main(["annotate", "plan", source, "--template", "brain-t1-thalami", *job]) == 0
        exported = ["annotate", "export", "--job", str(tmp_path / "job"), "--stow", archive]
        assert main(["annotate", "run", *job, "--shard", "0/2"]) == 0
        assert main(exported) == 3, "what is not whole would lie beside what is"
        assert "problem    1 series: not stored" in capsys.readouterr().err
        assert not orthanc.dicomweb.search_for_series(kept.StudyInstanceUID, search_filters={"Modality": "SEG"})
        assert main(["annotate", "run", *job]) == 0
        for _ in range(2):  # what it has is not sent again
            assert main(exported) == 0
    assert "problem" not in capsys.readouterr().err
    verified = ["annotate", "verify", "--job", str(tmp_path / "job"), "--stow", archive]
    assert main(verified) == 0
    written = {path.read_bytes() for path in (tmp_path / "job").rglob("seg/*/*.dcm")}
    series = orthanc.dicomweb.search_for_series(kept.StudyInstanceUID, search_filters={"Modality": "SEG"})
    assert len(series) == 1
    stored = orthanc.dicomweb.search_for_instances(kept.StudyInstanceUID, search_filters={"Modality": "SEG"})
    assert len(stored) == len(written) > 0
    again = ["annotate", "plan", source, "--template", "brain-t1-thalami", "--references", "seg", "--json"]
    with serve(Script()) as server:
        assert main([*again, "--job", str(tmp_path / "again"), "--server", server.address]) == 0
        planned = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert planned["about_given_masks"] > 0
        assert main(["annotate", "run", "--job", str(tmp_path / "again"), "--server", server.address]) == 0
    for path in (tmp_path / "job").rglob("seg/*/1.dcm"):
        held = pydicom.dcmread(path)
        held.SOPInstanceUID = held.file_meta.MediaStorageSOPInstanceUID = "2.25.77009"
        held.save_as(path)
    capsys.readouterr()
    assert main(verified) == 3
    told = capsys.readouterr().out
    assert " 1: export_not_stored: " in told
    assert " 1: export_superseded: " in told
    assert main(exported) == 0, "the file is as it must be again"
    orthanc.dicomweb.store_instances([held])
    assert main(exported) == 3
    assert "problem    1 series: the archive has others besides" in capsys.readouterr().err
