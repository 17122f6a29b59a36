"""`--verify-key`: no model without a good signature is loaded, not even later."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from atpatch_onnx import AtpatchError, sign
from atpatch_onnx.serve.engine import Engine
from atpatch_onnx.serve.kill_switch import KillSwitch
from atpatch_onnx.serve.reload import reload
from atpatch_onnx.serve.settings import Settings

from ..conftest import Run
from ..signing.keys import Keys, make_keys
from .load import DEMO


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    return make_keys(tmp_path_factory.mktemp("keys"))


@pytest.fixture
def models(tmp_path: Path, patched: Path) -> tuple[Path, Path]:
    """Original and patched model, without signatures."""
    return Path(shutil.copy(DEMO / "model.onnx", tmp_path)), Path(shutil.copy(patched, tmp_path / "patched.onnx"))


def serve(
    models: tuple[Path, Path], keys: Keys, use: Callable[[Engine], Awaitable[None]] | None = None, **more: Any
) -> None:
    """Start a server's engine, use it and close it."""
    engine = Engine(
        Settings(*models, **{"mode": "patched", "verify_key": keys.public, **more}), KillSwitch(environment={})
    )

    async def used() -> None:
        engine.start()
        try:
            if use is not None:
                await use(engine)
        finally:
            await engine.close()

    asyncio.run(used())


def test_both_models_need_a_signature(models: tuple[Path, Path], keys: Keys) -> None:
    for model in models:
        with pytest.raises(AtpatchError, match="ATP095"):
            serve(models, keys)
        sign(model, key=keys.private)
    serve(models, keys)
    models[1].write_bytes(models[0].read_bytes())
    with pytest.raises(AtpatchError, match="ATP094"):
        serve(models, keys)


def test_a_signed_original_does_not_stand_in_for_the_patched_model(models: tuple[Path, Path], keys: Keys) -> None:
    """A signature over one file is good under any name."""
    sign(models[0], key=keys.private)
    for suffix in ("", ".sig"):
        shutil.copy(f"{models[0]}{suffix}", f"{models[1]}{suffix}")
    with pytest.raises(AtpatchError, match=r"ATP094.*no patch"):
        serve(models, keys)


@pytest.mark.parametrize("mode", ["patched", "original"])
def test_an_original_that_was_restored_has_the_signature_of_its_patched_model(
    models: tuple[Path, Path], keys: Keys, mode: str
) -> None:
    with pytest.raises(AtpatchError, match="ATP095"):
        serve(models, keys, restored=True, mode=mode)
    sign(models[1], key=keys.private)
    serve(models, keys, restored=True, mode=mode)


def test_a_reload_asks_again(models: tuple[Path, Path], keys: Keys) -> None:
    for model in models:
        sign(model, key=keys.private)

    async def change_and_reload(running: Engine) -> None:
        before = running.lanes["patched"]
        models[1].write_bytes(models[1].read_bytes() + b"\x00")
        with pytest.raises(AtpatchError, match="ATP094"):
            await reload(running, "patched")
        assert running.lanes["patched"] is before

    serve(models, keys, change_and_reload)


def test_the_command_asks_before_it_serves(models: tuple[Path, Path], keys: Keys, atpatch: Callable[..., Run]) -> None:
    words = ("--port", "0", "--mode", "patched", "--verify-key", keys.public)
    for given in (models, models[1:]):
        done = atpatch("serve", *given, *words)
        assert done.code == 1 and done.err.splitlines()[0].startswith("error ATP095: "), done.err


def test_a_hotfix_of_the_server_itself_has_no_signature(
    models: tuple[Path, Path], keys: Keys, atpatch: Callable[..., Run]
) -> None:
    done = atpatch("serve", models[0], "--calibrate", "50", "--verify-key", keys.public)
    assert done.code == 2 and "no signature" in done.err
