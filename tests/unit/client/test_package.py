"""The package as a whole: light, typed, and in step with the contract."""

from __future__ import annotations

import dataclasses
import pydoc
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

import mediround
from mediround import dicom, evaluate, medseg, results, templates, testing
from mediround.v1 import segmentation_pb2 as pb

CLIENTS = Path(mediround.__file__).parent.parent
HEAVY = ("torch", "vllm", "onnxruntime", "cv2", "PIL", "matplotlib", "rich", "pydantic", "serving")


def test_importing_it_imports_nothing_heavy() -> None:
    code = f"import mediround, sys; print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_it_says_that_it_is_typed() -> None:
    assert (CLIENTS / "mediround" / "py.typed").is_file()


def test_all_that_is_named_is_there() -> None:
    assert mediround.__all__ == sorted(mediround.__all__)
    assert all(hasattr(mediround, name) for name in mediround.__all__)


def public_values() -> list[type]:
    modules = (mediround, dicom, evaluate, templates, testing)
    names = [getattr(module, name) for module in modules for name in module.__all__]
    named = [*names, results.Opening, evaluate.report.Figures, medseg.AskedRound, medseg.Dialogue]
    return sorted(
        {value for value in named if isinstance(value, type) and dataclasses.is_dataclass(value)},
        key=lambda value: value.__name__,
    )


@pytest.mark.parametrize("value", public_values(), ids=lambda value: value.__name__)
def test_help_says_what_each_field_is(value: type) -> None:
    """Each stands in the class's docstring: ``help`` shows no docstring below a field."""
    head, _, said = (value.__doc__ or "").partition("\n    Attributes:\n")
    assert head.strip()
    said = said.partition("\n\n")[0]  # Raises: may follow
    lines = [line.strip() for line in said.splitlines() if line.startswith(" " * 8) and line[8] != " "]
    assert [line.partition(":")[0] for line in lines] == [
        field.name for field in dataclasses.fields(value) if not field.name.startswith("_")
    ]
    assert all(line.partition(":")[2].strip() for line in lines)
    assert all(line in pydoc.plain(pydoc.render_doc(value)) for line in lines)


def test_without_its_extra_the_command_says_what_to_install() -> None:
    code = "import sys; sys.modules['rich'] = None; from mediround.__main__ import main; sys.exit(main())"
    flags = ["evaluate", "--server", "a:1", "--data", "d", "--root", ".", "--out", "o"]
    done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "error: rich is not installed: in the repository, pip install './clients[evaluate]'\n"


def test_the_contract_tells_other_languages_where_its_classes_go() -> None:
    options = pb.DESCRIPTOR.GetOptions()
    assert (options.go_package, options.java_package, options.csharp_namespace) == (
        "mediround/v1;mediroundv1",
        "mediround.v1",
        "Mediround.V1",
    )
    assert options.java_multiple_files


def test_the_contract_is_shipped_beside_its_stubs() -> None:
    shipped = resources.files("mediround.v1").joinpath("segmentation.proto").read_text()
    assert shipped == (CLIENTS.parent / "protos/mediround/v1/segmentation.proto").read_text()
