"""Debian's Orthanc with its DICOMweb plug-in: started, asked whether it is ready, stopped.

Knows its configuration. Does not know what is stored in it.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from loadtest.server_process import free_port
from tests.pacs.programs import program, unavailable

PLUGINS = Path("/usr/share/orthanc/plugins")
NEEDED = {"libOrthancDicomWeb.so": "orthanc-dicomweb", "libOrthancGdcm.so": "orthanc-gdcm"}
START_SECONDS = 60
STABLE_SECONDS = 2
USER = "mediround"


@dataclass(frozen=True, slots=True)
class Orthanc:
    """A running one.

    Attributes:
        http_port: of its own interface and of DICOMweb, on 127.0.0.1.
        dicom_port: of DIMSE, called ``ORTHANC``.
        password: of ``USER``, without which nothing is answered.
    """

    http_port: int
    dicom_port: int
    password: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.http_port}"

    @property
    def dicomweb(self) -> DICOMwebClient:
        return DICOMwebClient(f"{self.url}/dicom-web", session=create_session_from_user_pass(USER, self.password))


@contextmanager
def orthanc_server(directory: Path) -> Iterator[Orthanc]:
    """Keeps what it stores in ``directory``; it has one log file there."""
    command = program("Orthanc")
    missing = [package for name, package in NEEDED.items() if not (PLUGINS / name).exists()]
    if missing:
        unavailable(f"Orthanc has no plug-in: Debian packages {' '.join(missing)}")
    server = Orthanc(free_port(), free_port(), secrets.token_urlsafe(12))
    (directory / "orthanc.json").write_text(json.dumps(_configuration(server, directory)))
    log = directory / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([command, str(directory / "orthanc.json")], stdout=stream, stderr=stream)
        try:
            _wait(server, process, log)
            yield server
        finally:
            process.terminate()
            process.wait(30)


def _configuration(server: Orthanc, directory: Path) -> dict[str, object]:
    return {
        "StorageDirectory": str(directory / "stored"),
        "IndexDirectory": str(directory / "stored"),
        "HttpPort": server.http_port,
        "RemoteAccessAllowed": True,
        "AuthenticationEnabled": True,
        "RegisteredUsers": {USER: server.password},
        "DicomAet": "ORTHANC",
        "DicomPort": server.dicom_port,
        "DicomCheckCalledAet": True,
        "DicomAlwaysAllowStore": False,
        "StableAge": STABLE_SECONDS,
        "Plugins": [str(PLUGINS / name) for name in NEEDED],
        "DicomWeb": {"Enable": True, "Root": "/dicom-web/", "StudiesMetadata": "Full", "SeriesMetadata": "Full"},
    }


def _wait(server: Orthanc, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            if requests.get(f"{server.url}/system", auth=(USER, server.password), timeout=5).ok:
                return
        except requests.ConnectionError:
            time.sleep(0.1)
    pytest.fail(f"Orthanc did not start:\n{log.read_text()}", pytrace=False)
