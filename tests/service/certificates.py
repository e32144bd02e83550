"""Certificates made on the spot, with the openssl command."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from mediround import Tls
from serving.rpc.server import ServerTls


@dataclass(frozen=True, slots=True)
class Authority:
    """A certificate authority in a directory of its own."""

    directory: Path

    @classmethod
    def make(cls, directory: Path) -> Authority:
        directory.mkdir()
        _openssl(
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
            "-subj", "/CN=authority", "-keyout", directory / "ca.key", "-out", directory / "ca.pem",
        )  # fmt: skip
        return cls(directory)

    @property
    def certificate(self) -> Path:
        return self.directory / "ca.pem"

    def issue(self, subject: str, alternative: str) -> tuple[Path, Path]:
        """Certificate and key for ``subject`` (``/CN=...``) with one alternative name."""
        stem = self.directory / f"issued{len(list(self.directory.iterdir()))}"
        extensions = stem.with_suffix(".ext")
        extensions.write_text(f"subjectAltName={alternative}\n")
        _openssl(
            "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj", subject,
            "-keyout", stem.with_suffix(".key"), "-out", stem.with_suffix(".csr"),
        )  # fmt: skip
        _openssl(
            "x509", "-req", "-in", stem.with_suffix(".csr"), "-CA", self.certificate, "-CAkey",
            self.directory / "ca.key", "-CAcreateserial", "-days", "2", "-extfile", extensions,
            "-out", stem.with_suffix(".pem"),
        )  # fmt: skip
        return stem.with_suffix(".pem"), stem.with_suffix(".key")

    def server(self, client_ca: Authority | None = None) -> ServerTls:
        certificate, key = self.issue("/CN=server", "IP:127.0.0.1")
        verified = client_ca.certificate.read_bytes() if client_ca else None
        return ServerTls(certificate.read_bytes(), key.read_bytes(), verified)

    def client(self, subject: str, alternative: str, server_ca: Authority | None = None) -> Tls:
        certificate, key = self.issue(subject, alternative)
        return Tls((server_ca or self).certificate, certificate, key)


def _openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)
