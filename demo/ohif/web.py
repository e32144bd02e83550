"""OHIF's files served by nginx, with an archive's DICOMweb beside them.

Knows both configurations. The archive's password stays in nginx: the browser never has it. Does not know what is
shown.
"""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

from demo.dicom.orthanc import USER, Orthanc
from demo.dicom.programs import program
from loadtest.server_process import free_port

START_SECONDS = 20.0
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
_SOURCE = {
    "namespace": "@ohif/extension-default.dataSourcesModule.dicomweb",
    "sourceName": "archive",
    "configuration": {
        "friendlyName": "Orthanc",
        "name": "archive",
        **dict.fromkeys(("wadoUriRoot", "qidoRoot", "wadoRoot"), "/dicom-web"),
        **dict.fromkeys(("imageRendering", "thumbnailRendering"), "wadors"),
        "qidoSupportsIncludeField": True,
        "supportsWildcard": True,
        "bulkDataURI": {"enabled": True},
    },
}
_VIEWER = {
    "routerBasename": "/",
    "extensions": [],
    "modes": [],
    "customizationService": {},
    "showStudyList": True,
    "maxNumberOfWebWorkers": 2,
    "disableConfirmationPrompts": True,
    "showCPUFallbackMessage": False,
    "showWarningMessageForCrossOrigin": False,
    "investigationalUseDialog": {"option": "never"},
    "defaultDataSourceName": "archive",
    "dataSources": [_SOURCE],
}


@contextmanager
def viewer_of(archive: Orthanc, files: Path, directory: Path) -> Iterator[str]:
    """The viewer's address while the block runs; ``files``: OHIF's ``dist``; ``directory``: for nginx's own.

    Raises:
        MissingProgram: nginx is not installed.
        RuntimeError: it did not start.
    """
    port = free_port()
    (directory / "app-config.js").write_text(f"window.config = {json.dumps(_VIEWER)};")
    configuration = directory / "nginx.conf"
    configuration.write_text(_nginx(port, archive, files.resolve(), directory.resolve()))
    configuration.chmod(0o600)  # it holds the archive's password
    process = subprocess.Popen([program("nginx"), "-c", str(configuration.resolve())])  # noqa: S603  # Debian's
    address = f"http://127.0.0.1:{port}"
    try:
        _wait(process, address)
        yield address
    finally:
        process.terminate()
        process.wait(START_SECONDS)


def _nginx(port: int, archive: Orthanc, files: Path, directory: Path) -> str:
    secret = base64.b64encode(f"{USER}:{archive.password}".encode()).decode()
    temporary = "\n".join(f"  {name}_temp_path {directory}/{name};" for name in _TEMPORARY)
    return f"""
daemon off;
pid {directory}/nginx.pid;
error_log {directory}/nginx.log;
events {{}}
http {{
  access_log off;
  include /etc/nginx/mime.types;
{temporary}
  server {{
    listen 127.0.0.1:{port};
    root {files};
    add_header Cross-Origin-Opener-Policy same-origin always;
    add_header Cross-Origin-Embedder-Policy require-corp always;
    location = /app-config.js {{ root {directory}; }}
    location / {{ try_files $uri $uri/ /index.html; }}
    location /dicom-web/ {{
      proxy_pass {archive.url};
      proxy_set_header Authorization "Basic {secret}";
      proxy_set_header Host $host:{port};
    }}
  }}
}}
"""


def _wait(process: subprocess.Popen[bytes], address: str) -> None:
    until = time.monotonic() + START_SECONDS
    while time.monotonic() < until and process.poll() is None:
        try:
            with urlopen(f"{address}/app-config.js", timeout=5):  # noqa: S310  # our own server
                return
        except OSError:
            time.sleep(0.1)
    raise RuntimeError("nginx did not start: see nginx.log beside its configuration")
