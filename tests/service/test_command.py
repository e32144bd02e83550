"""``mediround ask``, ``describe`` and ``ping`` against the real service, and ``--version`` of every command."""

from __future__ import annotations

import asyncio
import json
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

import mediround
from mediround import rle
from serving.api.server import Server
from tests.service.harness import picture

REPOSITORY = Path(mediround.__file__).parent.parent.parent


async def command(*arguments: str | Path, module: str = "mediround") -> tuple[int, str, str]:
    """Exit status and what was said, to each of the streams."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, *map(str, arguments),
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE, cwd=REPOSITORY,
    )  # fmt: skip
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    Image.fromarray(picture()).save(tmp_path / "slice.png")
    return tmp_path / "slice.png"


async def test_questions_are_answered_in_a_line_each(server: Server, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "a" / "out"
    code, said, err = await command(
        "ask", image, "Segment the liver.", "Its tumor.", "hear me?", "--refer-to", "1:0", "--mode", "free",
        "--server", server.address, "--out", out,
    )  # fmt: skip
    assert (code, err) == (0, "")
    first, second, third = said.splitlines()
    assert first.startswith("round 0: 'Here [SEG]")
    assert "refers to round 0" in second
    assert "no mask" in third
    results = json.loads((out / "results.json").read_text())
    assert [result["index"] for result in results] == [0, 1, 2]
    assert sorted(path.name for path in out.glob("*.png")) == ["round-0.png", "round-1.png"]
    for result in results[:2]:
        mask = rle.decode(result["mask"]["counts"].encode(), *result["mask"]["size"])
        with Image.open(out / f"round-{result['index']}.png") as saved:
            np.testing.assert_array_equal(np.asarray(saved), mask)


async def test_what_was_answered_stays_where_a_later_question_is_refused(
    server: Server, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    flags = ("--mode", "free", "--server", server.address, "--out", out)
    code, _, err = await command("ask", image, "Segment the liver.", "hear me?", "b", "--refer-to", "1", *flags)
    assert (code, err.startswith("error: FailedPrecondition: ")) == (1, True)
    assert sorted(path.name for path in out.iterdir()) == ["results.json", "round-0.png"]
    assert [each["index"] for each in json.loads((out / "results.json").read_text())] == [0, 1]
    code, _, err = await command("ask", image, "Segment the liver.", *flags)
    assert (code, err) == (2, "error: --out: must not exist, or be an empty folder: nothing is overwritten\n")


async def test_answers_as_json(server: Server, image: Path) -> None:
    flags = ("--refer-to", "0", "--json", "--server", server.address)
    code, said, _ = await command("ask", image, "Segment the liver.", "Its tumor.", *flags)
    assert code == 0
    first, second = map(json.loads, said.splitlines())
    assert (first["index"], second["reference"]["index"]) == (0, 0)


async def test_a_dicom_object_is_asked_about_by_its_window(server: Server) -> None:
    ct = str(get_testdata_file("CT_small.dcm", download=False))
    flags = ("--json", "--server", server.address)
    code, said, _ = await command("ask", ct, "Segment the liver.", "--window=-600,1500", "--frame", "1", *flags)
    assert code == 0
    assert json.loads(said)["pixels"]["window"].startswith("LINEAR center -600 width 1500 (request)")
    code, _, err = await command("ask", ct, "Segment the liver.", "--window", "liver lesion", *flags)
    assert (code, err.count("must be a window, or one of")) == (2, 1)
    code, _, err = await command("ask", get_testdata_file("rtplan.dcm", download=False), "Its tumor.", *flags)
    assert (code, err.count("it is RT Plan Storage")) == (2, 1)


async def test_describe_and_ping(server: Server) -> None:
    code, said, _ = await command("describe", "--server", server.address)
    assert code == 0
    assert "model_name: made-up" in said.splitlines()
    lines = said.splitlines()
    assert "limits.max_rounds: 6" in lines
    assert "answer_modes: forced, grammar, free" in lines
    code, said, _ = await command("describe", "--json", "--server", server.address)
    described = json.loads(said)
    assert described["limits"]["max_rounds"] == 6
    [record] = described["engine_records"]
    assert record["language"] == {"engine": "scripted", "version": "1"} | dict.fromkeys(
        ("provider", "precision", "threads", "runner")
    )
    assert f"engine_records[0].digest: {record['digest']}" in lines
    assert "engine_records[0].pixels.libraries[0].name: pillow" in lines
    assert not [line for line in lines if "provider" in line]  # what is not known has no line
    code, said, _ = await command("ping", "--wait", "20", "--server", server.address)
    assert (code, said[:9]) == (0, "SERVING, ")


@pytest.mark.parametrize(
    ("arguments", "outcome"),
    [
        (["ask", "absent.png", "Segment it."], (2, "absent.png")),
        (["ask", "{image}", ""], (2, "question.text")),
        (["ask", "{image}", "a", "--refer-to", "0"], (2, "must refer to an earlier round")),
        (["ask", "{image}", "a", "b", "--refer-to", "2:0"], (2, "must refer to an earlier round")),
        (["ask", "{image}", "a", "b", "--refer-to", "x"], (2, "must be ROUND, or QUESTION:ROUND")),
        (["ask", "{image}", "a", "--timeout", "nan"], (2, "must be seconds above 0")),
        (["ask", "{image}", "a", "--timeout", "-1"], (2, "must be seconds above 0")),
        (["ask", "{image}", "a", "--tls-ca", "absent.pem"], (2, "tls.ca: absent.pem cannot be read")),
        (["describe", "--server", "http://host:1"], (2, "address: ")),
        (["ping", "--server", "127.0.0.1:{free}", "--timeout", "5"], (1, "Unavailable: ")),
        (["ping", "--server", "127.0.0.1:{free}", "--wait", "0.5"], (1, "DeadlineExceeded: ")),
        (["evaluate", "--data", "d", "--root", ".", "--out", "o", "--server", "host"], (2, "address: |d")),
    ],
)
async def test_what_cannot_be_done_is_said_in_a_line(
    server: Server, image: Path, free_port: int, arguments: list[str], outcome: tuple[int, str]
) -> None:
    given = [each.format(image=image, free=free_port) for each in arguments]
    if "--server" not in given:
        given += ["--server", server.address]
    status, said, err = await command(*given)
    assert (status, said) == (outcome[0], "")
    assert any(word in err.splitlines()[-1] for word in outcome[1].split("|"))
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "module",
    ["mediround", "serving", "serving.llm", "serving.healthcheck", "exporters", "loadtest", "demo", "demo.heldout",
     "benchmarks", "benchmarks.hop", "deploy.images"],
)  # fmt: skip
async def test_every_command_says_its_version(module: str) -> None:
    assert await command("--version", module=module) == (0, f"{mediround.__version__}\n", "")


def test_the_version_is_the_packages() -> None:
    for file in ("clients/pyproject.toml", "pyproject.toml"):
        assert tomllib.loads((REPOSITORY / file).read_text())["project"]["version"] == mediround.__version__
