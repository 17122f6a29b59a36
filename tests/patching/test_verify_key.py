"""`verify_key`: a hotfix without a good signature is not patched in."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from atpatch_onnx import AtpatchError, Hotfix, patch, sign

from ..conftest import Run
from ..signing.keys import Keys, make_keys

DEMO = Path(__file__).parents[2] / "atpatch_onnx" / "demo" / "digits"


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """The demo model with its hotfix next to it."""
    shutil.copy(DEMO / "model.hotfix", tmp_path)
    return Path(shutil.copy(DEMO / "model.onnx", tmp_path))


def refused(code: str, model: Path, **options: object) -> None:
    with pytest.raises(AtpatchError, match=code):
        patch(model, **options)
    assert not model.with_name("model.patched.onnx").exists()


def test_a_signed_hotfix_is_patched_in(model: Path, keys: Keys, atpatch: Callable[..., Run]) -> None:
    sign(model.with_name("model.hotfix"), key=keys.private)
    found = patch(model, verify_key=keys.public)  # next to the model
    words = ("--hotfix", model.with_name("model.hotfix"), "--verify-key", keys.public)
    assert found.hotfix == str(model.with_name("model.hotfix"))
    assert atpatch("patch", model, *words, "--json").json["detector"] == found.detector


def test_any_other_hotfix_is_refused(model: Path, keys: Keys, tmp_path: Path) -> None:
    refused("ATP095", model, verify_key=keys.public)
    sign(model.with_name("model.hotfix"), key=make_keys(tmp_path / "others").private)
    refused("ATP094", model, verify_key=keys.public)
    other = replace(Hotfix.load(model.with_name("model.hotfix")), threshold=0.9)
    sign(model.with_name("model.hotfix"), key=keys.private)
    other.save(model.with_name("model.hotfix"))
    refused("ATP094", model, verify_key=keys.public)


@pytest.mark.parametrize("options", [{"detector": "statistic"}, {"hotfix": Hotfix.load(DEMO / "model.hotfix")}])
def test_without_a_file_there_is_nothing_to_verify(model: Path, keys: Keys, options: dict[str, object]) -> None:
    refused("ATP060", model, verify_key=keys.public, **options)


def test_a_folder_asks_for_the_hotfix_of_each_file(model: Path, keys: Keys) -> None:
    (model.parent / "config.json").write_text("{}")
    folder = model.parent
    with pytest.raises(AtpatchError, match="ATP095"):
        patch(folder, folder.with_name("patched"), verify_key=keys.public)
    assert not folder.with_name("patched").exists()
