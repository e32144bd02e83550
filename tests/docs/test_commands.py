"""The commands of the pages run where the pages put them.

Every command in a fenced shell block is run in a checkout, beside a server of the bundled model, with its
placeholders put in (``checkout.SUBSTITUTES``); or it stands in ``not_run.toml`` under one of five
reasons. Python programs of the pages are run, too, and every link leads somewhere.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.data import get_testdata_file

from loadtest.server_process import free_port, launched
from tests.conftest import REPOSITORY
from tests.docs.checkout import BUNDLED, Checkout, Lacking, environment, lay
from tests.docs.pages import PAGES, Block, blocks, commands, fences, links, unfenced

REASONS = {"needs a GPU", "needs Docker", "needs a registry", "takes over two minutes", "needs root"}
NOT_RUN: dict[str, list[str]] = tomllib.loads((Path(__file__).parent / "not_run.toml").read_text())
LEFT_OUT = {command for listed in NOT_RUN.values() for command in listed}
RUN = [block for block in blocks() if set(block.commands) - LEFT_OUT]
PROGRAMS = [
    pytest.param(name, number, text, id=f"{name}:{number}")
    for page in PAGES
    if page.name != "CONTRIBUTING.md"  # the form of a docstring
    for name in [str(page.relative_to(REPOSITORY))]
    for number, (language, text) in enumerate(fences(page.read_text()), start=1)
    if language == "python" and "segmentation.example" not in text  # somebody's server, by TLS
]
FEW = 1
"""Dialogues of the data set that stands in for a reader's own."""


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    directory = tmp_path_factory.mktemp("checkout")
    lay(directory)
    metrics = f"127.0.0.1:{free_port()}"
    flags = ["--metrics-listen", metrics]
    with launched(REPOSITORY / BUNDLED, directory / "build/shared.log", flags) as server:
        _few(directory, server.address)
        yield Checkout(directory, server.address, metrics)


def _few(directory: Path, server: str) -> None:
    """A reader's data set, and its evaluation."""
    _python(directory, "-m", "demo.heldout", "--slices", "build/slices", "--out", "build/few")
    data = directory / "build/few/dialogues.json"
    data.write_text(json.dumps(json.loads(data.read_text())[:FEW]))
    words = ["--server", server, "--data", str(data), "--root", "build/few", "--out", "build/evaluated"]
    _python(directory, "-m", "mediround", "evaluate", *words)


def _python(directory: Path, *words: str) -> None:
    done = subprocess.run(
        [sys.executable, *words],
        cwd=directory,
        env=environment(directory),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.timeout(900)  # an export, and vLLM's start
@pytest.mark.parametrize("block", RUN, ids=str)
def test_a_block_runs(block: Block, checkout: Checkout) -> None:
    try:
        checkout.run([command for command in block.commands if command not in LEFT_OUT])
    except Lacking as lacking:
        pytest.skip(str(lacking))


@pytest.mark.parametrize(("page", "number", "program"), PROGRAMS)
def test_a_program_runs(page: str, number: int, program: str, checkout: Checkout) -> None:
    directory = checkout.directory
    text = program.replace("127.0.0.1:50051", checkout.server)
    text = text.replace("slice.dcm", str(get_testdata_file("CT_small.dcm")))
    text = text.replace('Path("dialogues.json"), Path(".")', 'Path("build/few/dialogues.json"), Path("build/few")')
    if not (directory / "images").exists():
        (directory / "images").mkdir()
        for place in ("slice.png", "images/a.png", "images/b.png"):
            (directory / place).symlink_to(directory / BUNDLED / "slices/slice_z076.png")
    _python(directory, "-c", text)


def test_every_link_leads_somewhere() -> None:
    found = {
        (page, link) for page in PAGES for link in links(page.read_text()) if not (page.parent / link).exists()
    }
    assert found == set()


def test_what_is_not_run_has_one_of_five_reasons_and_stands_on_a_page() -> None:
    assert NOT_RUN.keys() <= REASONS
    assert len(LEFT_OUT) == sum(map(len, NOT_RUN.values())), "a command stands under two reasons"
    assert {command for block in blocks() for command in block.commands} >= LEFT_OUT


def test_no_command_stands_outside_of_a_shell_fence() -> None:
    assert {str(page): found for page in PAGES if (found := unfenced(page.read_text()))} == {}


def test_commands_are_read_as_a_shell_would() -> None:
    text = "make demo   # a comment\n$ python -m x --id '#3' \\\n    --y  z\n\n# alone\n"
    assert list(commands(text)) == ["make demo", "python -m x --id '#3' --y z"]


def test_a_command_that_does_not_run_is_found_out(checkout: Checkout) -> None:
    with pytest.raises(AssertionError, match="--nonsense"):
        checkout.run(["python -m loadtest --nonsense && false"])
    with pytest.raises(AssertionError, match="does not serve"):
        checkout.run(["python -m serving --bundle DIR --nonsense"])
