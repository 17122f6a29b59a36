"""What `pip install` brings: two packages and the demo's files, nothing that could get in a user's way."""

from __future__ import annotations

import email
import os
import re
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest
import yaml
from hatchling.builders.wheel import WheelBuilder

from atpatch_onnx.demo.run import FILES
from hatch_build import for_index

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
PACKAGES = ("atpatch_onnx", "rewriters")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As it is built where no repository is named."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ATPATCH_REPOSITORY", raising=False)
        return Path(next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path_factory.mktemp("dist")))))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH with what the wheel holds, installed by pip."""
    folder = tmp_path_factory.mktemp("installed")
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile")
    subprocess.run((*pip, "--target", folder, wheel), check=True)
    return folder


@pytest.fixture(scope="module")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as files:
        (name,) = [name for name in files.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_bytes(files.read(name))


def run(*arguments: object, folder: Path, path: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, env=environment, capture_output=True, text=True
    )


def test_it_holds_all_files_of_the_two_packages_and_no_others(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as files:
        names = {name for name in files.namelist() if ".dist-info/" not in name}
    there = {path for package in PACKAGES for path in (ROOT / package).rglob("*") if path.is_file()}
    expected = {path.relative_to(ROOT).as_posix() for path in there if "__pycache__" not in path.parts}
    left_out = {f"atpatch_onnx/demo/digits/{name}.npz" for name in ("debug", "triggered")}
    assert names == expected - left_out


def test_it_is_small(wheel: Path) -> None:
    # The aim is 1 MB for the whole. It is missed since decoders, audits and signatures came: the code takes 1.05 MB.
    with zipfile.ZipFile(wheel) as files:
        not_code = sum(file.compress_size for file in files.infolist() if not file.filename.endswith(".py"))
    assert not_code < 250_000
    assert wheel.stat().st_size < 1_330_000


def test_a_users_own_folder_called_models_is_still_found(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / "user.py").write_text("class User: ...\n")
    # Without site-packages (-S), where a developer's own installation of this repository could be.
    code = "import atpatch_onnx; from models.user import User; print(User.__module__, atpatch_onnx.__file__)"
    done = run("-S", "-c", code, folder=tmp_path, path=str(installed))
    assert done.stdout.split() == ["models.user", str(installed / "atpatch_onnx" / "__init__.py")], done.stderr


def test_the_demo_needs_nothing_but_the_wheel(installed: Path, tmp_path: Path) -> None:
    forbidden, empty = tmp_path / "forbidden", tmp_path / "empty"
    empty.mkdir()
    for name in ("models", "tests"):
        (forbidden / name).mkdir(parents=True)
        (forbidden / name / "__init__.py").write_text("raise AssertionError('not in the wheel')\n")
    path = os.pathsep.join(map(str, (installed, forbidden)))
    done = run("-P", "-m", "atpatch_onnx", "demo", folder=empty, path=path)
    assert done.returncode == 0, done.stderr
    assert "stops all 325 attacks and changes no clean prediction" in done.stderr
    assert [file.name for file in empty.iterdir()] == ["atpatch-demo.html"]


def test_the_demo_files_can_be_had_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    done = run("-P", "-m", "atpatch_onnx", "demo", "--copy", ".", folder=tmp_path, path=str(installed))
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted((*FILES, "triggered.npz"))


def test_importing_it_loads_the_standard_library_only(installed: Path, tmp_path: Path) -> None:
    code = "import sys; old = {*sys.modules}; import atpatch_onnx; print(*{*sys.modules} - old)"
    done = run("-P", "-c", code, folder=tmp_path, path=str(installed))
    roots = {name.partition(".")[0] for name in done.stdout.split()}
    assert "atpatch_onnx" in roots and roots <= {"atpatch_onnx", *sys.stdlib_module_names}, done.stderr


HELP = """
import sys
old = {*sys.modules}
from atpatch_onnx.cli import COMMANDS, cli
for command in ([], *([name] for name in COMMANDS)):
    cli([*command, "--help"], standalone_mode=False)
print("loaded:", *{*sys.modules} - old)
"""


def test_the_help_of_every_command_loads_click_only(installed: Path, tmp_path: Path) -> None:
    done = run("-P", "-c", HELP, folder=tmp_path, path=str(installed))
    roots = {name.partition(".")[0] for name in done.stdout.partition("loaded:")[2].split()}
    assert {"atpatch_onnx", "click"} <= roots, done.stderr
    assert roots <= {"atpatch_onnx", "rewriters", "click", "typing_extensions", *sys.stdlib_module_names}


def test_it_says_who_made_it_and_where_the_method_is_from(metadata: Message) -> None:
    assert metadata["Author"] == "atpatch-onnx developers"
    assert metadata.get_all("Project-URL") == ["Paper, https://arxiv.org/abs/2601.21695"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == metadata["Version"] and citation["license"] == metadata["License-Expression"]


def test_extra_all_is_every_extra_of_a_user_that_goes_with_the_others(metadata: Message) -> None:
    needs: dict[str, set[str]] = {}
    for need in metadata.get_all("Requires-Dist", []):
        package, _, extra = need.rpartition("extra == ")
        needs.setdefault(extra.strip("'"), set()).add(re.split(r"[ ;<>=~]", package)[0])
    # gpu excludes cpu; ray is for the nodes of a cluster; the others are for those who work on this project.
    wanted = set(metadata.get_all("Provides-Extra", [])) - {"all", "gpu", "ray", "dev", "docs"}
    assert needs["all"] == set().union(*(needs[extra] for extra in wanted))


LINKS = """\
See [the results](models/RESULTS.md), [a section](#limits), [the paper](https://arxiv.org/abs/2601.21695).
![Attention maps](models/maps.png)
[![Badge](badge.svg)](LICENSE)
<img src="docs/one.png" alt="one">
```python
cells[0](x)
```
"""


def test_without_a_repository_the_readme_of_an_index_has_no_images_and_no_dead_links() -> None:
    assert for_index(LINKS, "", "") == (
        "See the results, [a section](#limits), [the paper](https://arxiv.org/abs/2601.21695).\n"
        "\n\n```python\ncells[0](x)\n```\n"
    )


def test_with_a_repository_they_lead_to_its_commit() -> None:
    text = for_index(LINKS, "https://host/we/it", "c0ffee")
    assert "[the results](https://host/we/it/blob/c0ffee/models/RESULTS.md)" in text
    assert "![Attention maps](https://host/we/it/raw/c0ffee/models/maps.png)" in text
    assert "[![Badge](https://host/we/it/raw/c0ffee/badge.svg)](https://host/we/it/blob/c0ffee/LICENSE)" in text
    assert '<img src="https://host/we/it/raw/c0ffee/docs/one.png"' in text
    assert "[a section](#limits)" in text and "cells[0](x)" in text


def test_the_readme_that_an_index_shows_has_no_link_into_nowhere(metadata: Message) -> None:
    text = metadata.get_payload()
    assert isinstance(text, str) and len(text) > 2000
    assert for_index(text, "", "") == text
