"""``python -m demo.triton.install DIR``: make what lies in DIR serve ONNX graphs on a CPU (``make env-triton``).

DIR holds the wheel of nvidia-pytriton, of which the server alone is used, and ``stub/``, a virtual environment for
Triton's Python backend. Knows the wheel's layout. Does not download anything.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
from pathlib import Path

from demo.triton.server import Installation

SHIM = Path(__file__).parent / "shim" / "model.py"
BACKENDS = ("tensorrt", "onnxruntime")


def install(directory: Path) -> None:
    """Put the shim under the backends' names, and the stub that fits the environment's Python in its place."""
    found = Installation(directory)
    asked = [str(found.python), "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = subprocess.run(asked, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603
    stubs = found.server_directory / "python_backend_stubs"
    shutil.copy2(stubs / version / "triton_python_backend_stub", found.backends / "python")
    for name in BACKENDS:
        (found.backends / name).mkdir(exist_ok=True)
        shutil.copyfile(SHIM, found.backends / name / "model.py")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m demo.triton.install", description=__doc__)
    parser.add_argument("directory", type=Path, help="where make env-triton has unpacked the wheel")
    install(parser.parse_args().directory)
