"""Certificates: each mistake is one error when ``Tls`` is made, and names the file."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from mediround import InvalidArgument, Tls
from tests.service.certificates import Authority


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    if shutil.which("openssl") is None:
        pytest.skip("no openssl command to make certificates with")
    return Authority.make(tmp_path_factory.mktemp("certificates") / "ours")


@pytest.fixture(scope="module")
def pair(authority: Authority) -> tuple[Path, Path]:
    return authority.issue("/CN=anna", "DNS:anna.example")


@pytest.fixture(scope="module")
def files(
    authority: Authority, pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    certificate, key = pair
    found = {
        "ca": authority.certificate,
        "certificate": certificate,
        "key": key,
        "other key": authority.issue("/CN=ben", "DNS:ben.example")[1],
        "absent": folder / "absent.pem",
        "folder": folder,
        "empty": folder / "empty.pem",
        "text": folder / "text.pem",
        "der": folder / "certificate.der",
        "torn certificate": folder / "torn-certificate.pem",
        "torn key": folder / "torn-key.pem",
        "encrypted": folder / "encrypted.pem",
        "both": folder / "both.pem",
    }
    found["empty"].touch()
    found["text"].write_text("hello")
    found["torn certificate"].write_bytes(certificate.read_bytes()[:200] + b"\n-----END CERTIFICATE-----\n")
    found["torn key"].write_bytes(key.read_bytes()[:60] + b"\n-----END PRIVATE KEY-----\n")
    found["both"].write_bytes(certificate.read_bytes() + key.read_bytes())
    openssl("x509", "-in", certificate, "-outform", "DER", "-out", found["der"])
    openssl("pkey", "-in", key, "-aes256", "-passout", "pass:secret", "-out", found["encrypted"])
    return found


def openssl(*arguments: str | Path) -> None:
    subprocess.run(["openssl", *arguments], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("given", "part", "words"),
    [
        ({"certificate": "certificate"}, "key", "is missing"),
        ({"key": "key"}, "certificate", "is missing"),
        ({"ca": "absent"}, "ca", "absent.pem cannot be read: No such file"),
        ({"ca": "folder"}, "ca", "cannot be read: Is a directory"),
        ({"ca": "empty"}, "ca", "empty.pem holds no PEM certificate"),
        ({"ca": "text"}, "ca", "text.pem holds no PEM certificate"),
        ({"ca": "der"}, "ca", "certificate.der holds no PEM certificate"),
        ({"ca": "torn certificate"}, "ca", "torn-certificate.pem holds a PEM certificate that cannot be read"),
        ({"ca": "key"}, "ca", "holds no PEM certificate"),
        ({"certificate": "key", "key": "certificate"}, "certificate", "holds no PEM certificate"),
        ({"certificate": "absent", "key": "key"}, "certificate", "absent.pem cannot be read"),
        ({"certificate": "certificate", "key": "absent"}, "key", "absent.pem cannot be read"),
        ({"certificate": "certificate", "key": "certificate"}, "key", "holds no PEM private key"),
        ({"certificate": "certificate", "key": "torn key"}, "key", "torn-key.pem holds a private key that cannot"),
        ({"certificate": "certificate", "key": "encrypted"}, "key", "encrypted.pem is encrypted"),
        ({"certificate": "certificate", "key": "other key"}, "key", "does not belong to the certificate of"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_what_cannot_be_used(
    files: dict[str, Path], given: dict[str, str], part: str, words: str, as_bytes: bool
) -> None:
    if as_bytes and any(name in ("absent", "folder") for name in given.values()):
        pytest.skip("no bytes to read")
    parts = {name: files[file].read_bytes() if as_bytes else files[file] for name, file in given.items()}
    with pytest.raises(InvalidArgument) as caught:
        Tls(**parts)
    assert [violation.field for violation in caught.value.violations] == [f"tls.{part}"]
    named = str(caught.value)
    assert (words.partition(".pem ")[2] if as_bytes and ".pem " in words else words) in named or as_bytes
    assert "BEGIN" not in named


@pytest.mark.parametrize("wrong", [5, ["a"], object()])
def test_what_is_no_file(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"tls\.ca: is a"):
        Tls(wrong)
    with pytest.raises(InvalidArgument, match="is no path"):
        Tls("a\0b")


@pytest.mark.parametrize("way", [str, Path, Path.read_bytes])
def test_what_can(files: dict[str, Path], way: Callable[[Path], str | Path | bytes]) -> None:
    ca, certificate, key, both = (way(files[name]) for name in ("ca", "certificate", "key", "both"))
    for made in (Tls(), Tls(ca), Tls(ca, certificate, key), Tls(certificate=both, key=both)):
        made.credentials()
        assert pickle.loads(pickle.dumps(made)) == made  # noqa: S301
        assert "PRIVATE" not in repr(made)


def test_an_expired_certificate_is_the_servers_to_judge(authority: Authority, tmp_path: Path) -> None:
    certificate, key, request = tmp_path / "expired.pem", tmp_path / "expired.key", tmp_path / "expired.csr"
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1")
    openssl("req", *curve, "-nodes", "-subj", "/CN=old", "-keyout", key, "-out", request)
    openssl("x509", "-req", "-in", request, "-signkey", key, "-days", "-1", "-out", certificate)
    Tls(certificate, certificate, key).credentials()


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "mediround", "evaluate", "--server", "127.0.0.1:9", "--data", "d", "--root", ".", "--out", "o"],
        ["-m", "loadtest", "run", "--target", "127.0.0.1:9", "--scenario", "loadtest/scenarios/burst.toml"],
        ["-m", "loadtest", "knee", "--target", "127.0.0.1:9", "--scenario", "loadtest/scenarios/burst.toml"],
    ],
    ids=lambda command: command[1],
)
def test_a_command_says_it_in_one_line(files: dict[str, Path], command: list[str], tmp_path: Path) -> None:
    for flags, words in (
        (["--tls-certificate", files["certificate"]], "tls.key: is missing"),
        (["--tls-ca", files["absent"]], "absent.pem cannot be read"),
        (["--tls-certificate", files["certificate"], "--tls-key", files["other key"]], "does not belong"),
    ):
        asked = [sys.executable, *command, "--out", tmp_path / "out", *flags]
        done = subprocess.run(asked, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert words in done.stderr
        assert done.stderr.startswith("error: ")
        assert done.stderr.count("\n") == 1
