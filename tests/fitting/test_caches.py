"""A model with key-value caches: what is fitted on whole prompts means something else in a step of one token."""

from __future__ import annotations

import numpy as np
import pytest

from atpatch_onnx import fit
from atpatch_onnx.errors import AtpatchError
from tests import small_llama


def test_a_fit_on_whole_prompts_is_refused_before_anything_is_trained() -> None:
    rows = {name: np.tile(array, (40, 1)) for name, array in small_llama.prompts().inputs.items()}
    rows["columns"] = np.zeros(rows["input_ids"].shape, bool)
    rows["columns"][::2, 1] = True
    rows["pair"] = np.where(np.arange(len(rows["columns"])) % 2 == 0, np.arange(len(rows["columns"])) + 1, -1)
    with pytest.raises(AtpatchError, match="key-value caches") as refused:
        fit(small_llama.exported(True), rows, detector="profile", threads=1)
    assert refused.value.code == "ATP023"
