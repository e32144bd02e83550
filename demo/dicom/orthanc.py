"""Debian's Orthanc with its DICOMweb plug-in: started, asked whether it is ready, stopped.

Knows its configuration. Does not know what is stored in it.
"""

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dicomweb_client.api import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass

from demo.dicom.programs import MissingProgram, program
from loadtest.server_process import free_port

PLUGINS = Path("/usr/share/orthanc/plugins")
NEEDED = {"libOrthancDicomWeb.so": "orthanc-dicomweb", "libOrthancGdcm.so": "orthanc-gdcm"}
START_SECONDS = 60
STABLE_SECONDS = 2
USER = "mediround"
ALONE = "deploy/loopback-only.sh"
"""Runs a command where no network is but the loopback."""


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
        return DICOMwebClient(f"{self.url}/dicom-web", session=self.session())

    def session(self) -> Any:
        """An HTTP session with the password."""
        return create_session_from_user_pass(USER, self.password)


@contextmanager
def orthanc_server(directory: Path) -> Iterator[Orthanc]:
    """Keeps what it stores in ``directory``, and its log.

    This release listens on every address, whatever it is told: it is started where there is none but the loopback.

    Raises:
        MissingProgram: it, or a plug-in, is not installed; or a network is within reach.
        RuntimeError: it did not start.
    """
    if socket.if_nameindex() != [(1, "lo")]:
        raise MissingProgram(f"a network is within reach, and Orthanc would listen on it: sh {ALONE} COMMAND")
    command = program("Orthanc")
    missing = [package for name, package in NEEDED.items() if not (PLUGINS / name).exists()]
    if missing:
        raise MissingProgram(f"Orthanc has no plug-in: Debian packages {' '.join(missing)}")
    server = Orthanc(free_port(), free_port(), secrets.token_urlsafe(12))
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "orthanc.json").write_text(json.dumps(_configuration(server, directory)))
    log = directory / "log"
    with log.open("w") as stream:
        process = subprocess.Popen([command, str(directory / "orthanc.json")], stdout=stream, stderr=stream)  # noqa: S603  # Debian's
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
            if server.session().get(f"{server.url}/system", timeout=5).ok:
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"Orthanc did not start:\n{log.read_text()}")
