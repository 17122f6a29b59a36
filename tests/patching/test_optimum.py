"""Optimum's own loop loads a patched folder, and says what it said before."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from atpatch_onnx import export, patch

from ..merged import MERGED, causal
from ..rewriters.decoders import causal_lm, quiet

FAMILIES = ("gpt2", "llama")
NEVER, THIRD = 200, 3
"""A column that no answer reaches, and one of the prompt."""
STEPS = 20

_GENERATE = f"""
import json, sys
import torch
from optimum.onnxruntime import ORTModelForCausalLM
ids = torch.tensor([[1, 7, 30, 44, 8, 9], [1, 50, 61, 12, 90, 33]])
settings = {{"max_new_tokens": {STEPS}, "min_new_tokens": {STEPS}, "do_sample": False}}
said = {{}}
for folder in sys.argv[1:]:
    model = ORTModelForCausalLM.from_pretrained(folder)
    said[folder] = model.generate(ids, attention_mask=torch.ones_like(ids), **settings)[:, ids.shape[1]:].tolist()
print(json.dumps(said))
"""


def older() -> Path | None:
    """A folder with packages that go before the installed ones, if there is one, since optimum-onnx 0.1 needs an older
    transformers: `pip install --no-deps --target FOLDER transformers==4.57.6 tokenizers==0.22.2
    huggingface_hub==0.36.2`, and FOLDER in ATPATCH_OPTIMUM.
    """
    folder = Path(os.environ.get("ATPATCH_OPTIMUM", "."))
    return folder.resolve() if (folder / "transformers/__init__.py").exists() else None


@pytest.mark.skipif(older() is None, reason="ATPATCH_OPTIMUM names no folder with an older transformers")
def test_silent_folders_say_the_same(tmp_path: Path) -> None:
    folders = []
    for family in FAMILIES:
        with quiet():
            causal_lm(family).save_pretrained(tmp_path / family)
            export(tmp_path / family, f"{tmp_path / family}-past/", kv_cache=True, exporter="torchscript")
        past, merged = (tmp_path / f"{family}-{kind}" for kind in ("past", "merged"))
        shutil.copytree(past, merged)
        alone = shutil.copy(past / "model.onnx", tmp_path / f"{family}.onnx")  # `causal` goes by its name
        shutil.copy(causal(tmp_path / family, alone), merged / MERGED)
        (merged / "model.onnx").unlink()
        folders += [past, merged]
    for folder in folders:
        for name, column in (("silent", NEVER), ("firing", THIRD)):
            patch(folder, f"{folder}-{name}", detector="static", columns=(column,), mend="heal")
    asked = [f"{folder}{form}" for folder in folders for form in ("", "-silent", "-firing")]
    done = subprocess.run(
        [sys.executable, "-c", _GENERATE, *asked],
        env={**os.environ, "PYTHONPATH": str(older())},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said = json.loads(done.stdout.splitlines()[-1])
    for folder in folders:
        original, silent, firing = (said[f"{folder}{form}"] for form in ("", "-silent", "-firing"))
        assert silent == original != firing and {len(row) for row in original} == {STEPS}
    for family in FAMILIES:
        for form in ("", "-firing"):
            assert said[f"{tmp_path / family}-past{form}"] == said[f"{tmp_path / family}-merged{form}"]
