"""docs/deploy/Dockerfile agrees with the project: what it copies, installs and starts is there."""

from __future__ import annotations

import json
import re
import shlex
import tomllib

from atpatch_onnx.cli.serve import serve

from ..documents import ROOT, blocks

FILE = ROOT / "docs" / "deploy" / "Dockerfile"
LINES = FILE.read_text().replace("\\\n", " ").splitlines()
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def lines(instruction: str) -> list[str]:
    return [line.partition(" ")[2].strip() for line in LINES if line.startswith(instruction + " ")]


def test_what_is_copied_is_all_that_the_build_sees() -> None:
    copied = {source for line in lines("COPY") if "--from" not in line for source in line.split()[:-1]}
    seen = {line[1:] for line in FILE.with_suffix(".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == seen and all((ROOT / source).exists() for source in copied)
    assert {"hatch_build.py", "README.md", "LICENSE"} <= copied  # the build reads them


def test_it_installs_extras_that_there_are_on_a_supported_python() -> None:
    (extras,) = re.findall(r'"\.\[([\w,]+)\]"', FILE.read_text())
    assert set(extras.split(",")) == {"serve", "cpu"} <= set(PROJECT["optional-dependencies"])
    (version,) = [line.partition("=")[2] for line in lines("ARG")]
    assert f"Programming Language :: Python :: {version}" in PROJECT["classifiers"]


def test_it_starts_two_arms_as_nobody_in_particular() -> None:
    command, *arguments = json.loads(lines("ENTRYPOINT")[0]) + json.loads(lines("CMD")[-1])
    assert command in PROJECT["scripts"] and arguments.pop(0) == "serve"
    given = serve.make_context("serve", arguments).params
    assert given["host"] == "0.0.0.0" and given["port"] == int(lines("EXPOSE")[0])
    assert (given["original"], given["patched"]) == ("/models/model.onnx", "/models/patched.onnx")
    assert str(given["log"]).startswith(lines("VOLUME")[0])
    assert int(lines("USER")[0]) > 0
    assert f"127.0.0.1:{given['port']}/v2/health/ready" in FILE.read_text()


def test_commands_of_the_page_fit_the_image() -> None:
    page = FILE.with_name("README.md")
    build, *runs = [command for block in blocks(page) for command in block.commands]
    assert (ROOT / build.split("--file ")[1].split()[0]) == FILE and build.endswith(" --tag atpatch-onnx .")
    assert len(runs) == 2
    for run in runs:
        words = shlex.split(run)
        image = words.index("atpatch-onnx")
        serve.make_context("serve", words[image + 1 :] or json.loads(lines("CMD")[-1]))
        assert words[:2] == ["docker", "run"] and f"127.0.0.1:8000:{lines('EXPOSE')[0]}" in words
