"""A DICOMweb archive in this process, with a few instances, that answers as it is told.

Knows QIDO-RS and WADO-RS of instances. Does not know what is wrong with an answer: tests say that.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any
from urllib.parse import parse_qs, urlsplit

from pydicom.dataset import Dataset

_BOUNDARY = "part"
_FIELDS = ("SOPInstanceUID", "SOPClassUID", "Rows", "Columns", "NumberOfFrames", "InstanceNumber")


class FakeArchive:
    """Its instances, and how it answers.

    Attributes:
        address: of its DICOMweb service.
        body: in place of the next answers' own, piece by piece; None: their own.
        heeds_offset: as QIDO-RS says.
        most: of what an answer to a query holds, however many are asked for.
    """

    def __init__(self, instances: Sequence[Dataset]) -> None:
        self.address = ""
        self.body: Iterator[bytes] | None = None
        self.heeds_offset = True
        self.most = 1000
        self.instances = list(instances)

    def answer(self, path: str) -> tuple[str, bytes]:
        """Media type and body."""
        parts = urlsplit(path)
        steps = parts.path.strip("/").split("/")
        query = {name: values[0] for name, values in parse_qs(parts.query).items()}
        named = dict(zip(steps[::2], steps[1::2], strict=False))
        chosen = [one for one in self.instances if _fits(one, named, query)]
        if "instances" in named:
            return f'multipart/related; type="application/dicom"; boundary={_BOUNDARY}', _part(chosen[0])
        found = [_described(one) for one in chosen]
        if steps[-1] == "series":
            found = list({each["0020000E"]["Value"][0]: each for each in found}.values())
        first = int(query.get("offset", 0)) if self.heeds_offset else 0
        count = min(int(query["limit"]), self.most)
        return "application/dicom+json", json.dumps(found[first : first + count]).encode()


def _fits(one: Dataset, named: dict[str, str], query: dict[str, str]) -> bool:
    wanted = {"studies": "StudyInstanceUID", "series": "SeriesInstanceUID", "instances": "SOPInstanceUID"}
    said = {wanted[name]: uid for name, uid in named.items() if name in wanted}
    said |= {name: value for name, value in query.items() if name in ("Modality", "StudyInstanceUID")}
    return all(str(one.get(name, "")) == value for name, value in said.items())


def _described(one: Dataset) -> dict[str, Any]:
    shown = Dataset()
    for name in (*_FIELDS, "StudyInstanceUID", "SeriesInstanceUID", "Modality"):
        if name in one:
            setattr(shown, name, one.get(name))
    described: dict[str, Any] = shown.to_json_dict()
    return described


def _part(one: Dataset) -> bytes:
    held = io.BytesIO()
    one.save_as(held, enforce_file_format=True)
    return (
        f"--{_BOUNDARY}\r\nContent-Type: application/dicom\r\n\r\n".encode()
        + held.getvalue()
        + (f"\r\n--{_BOUNDARY}--\r\n".encode())
    )


@contextmanager
def archive(*instances: Dataset) -> Iterator[FakeArchive]:
    """A running one."""
    held = FakeArchive(instances)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:  # the library's name
            kind, body = held.answer(self.path)
            self.send_response(200)
            self.send_header("Content-Type", kind)
            if held.body is None:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            try:
                for piece in [body] if held.body is None else held.body:
                    self.wfile.write(piece)
            except OSError:  # the client has gone, as it must
                return

        def log_message(self, *_: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    held.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield held
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
