"""Maps and values in canonical form, as `fit` reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

import atpatch_onnx
from atpatch_onnx.errors import DATA_MALFORMED
from atpatch_onnx.inference.capture import Capture, SiteBatch, canonical_map, canonical_values
from atpatch_onnx.inference.datasets import as_dataset
from atpatch_onnx.inference.runner import Runner, expose, only
from rewriters.errors import AtpatchError
from rewriters.finding.finder import find_sites
from tests.rewriters import graphs
from tests.rewriters.finding.leading_axes import FORMS, X
from tests.rewriters.patterns import PATTERNS, SIZES


@pytest.mark.parametrize(
    "name", ["15-einsum", "15-xlnet", "15-einsum-keys-first", "15-einsum-multi-query", "15-values-of-lower-rank"]
)
def test_canonical_form_broadcasts_to_the_product(name: str) -> None:
    """Values shared by all heads, or by all samples, have an axis of size 1 there."""
    pattern = next(p for p in PATTERNS if p.id == name)
    (site,), _ = find_sites(pattern.model)
    p = np.zeros(
        [
            {"b": 2, "h": 3, "n": 3, "q": 5, "i": 5, "k": 7, "j": 7}[letter]
            for letter in {"15-einsum-keys-first": "bkqh"}.get(name, "bhqk")
        ]
    )
    a = canonical_map(site, p)
    v = canonical_values(site, pattern.feeds()["v"])
    assert (a.shape, v.ndim, v.shape[2:]) == (
        (SIZES["B"], SIZES["H"], SIZES["S"], SIZES["T"]),
        4,
        (SIZES["T"], SIZES["D"]),
    )
    assert np.matmul(a, v).shape == (SIZES["B"], SIZES["H"], SIZES["S"], SIZES["D"])


@pytest.mark.parametrize(("form", "axes"), [("rows", [1, 2]), ("rows-and-heads", [1, 2, 3])])
def test_a_model_that_judges_rows_of_images_is_refused_with_the_reason(
    form: str, axes: list[int], tmp_path: Path
) -> None:
    model = FORMS[form].model()
    model.graph.node.append(helper.make_node("ReduceMean", ["out"], ["logits"], axes=axes, keepdims=0))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", None]))
    data = tmp_path / "clean.npz"
    np.savez(data, x=np.concatenate([X] * 20), labels=np.zeros(40, np.int64))
    with pytest.raises(AtpatchError, match="its leading axis counts windows, not samples") as raised:
        atpatch_onnx.fit(model, clean=data, detector="oneclass")
    assert raised.value.fault is DATA_MALFORMED


def test_batches_are_kept_as_far_as_there_is_room() -> None:
    block, data = graphs.attention_block(), as_dataset(graphs.feeds("4d"))

    def twice(capture: Capture, rows: np.ndarray) -> tuple[SiteBatch, SiteBatch]:
        ((_, once),), ((_, again),) = (list(capture.batches(data, rows)) for _ in range(2))
        return once[block.site.id], again[block.site.id]

    def opened(keep: int) -> Capture:
        return Capture(block.model, Path(), [block.site], data, graphs.K, 1, keep=keep)

    everything, fewer = np.arange(graphs.B), np.arange(graphs.B - 1)
    one, other = twice(opened(0), everything)
    assert one is not other
    assert one.map.tobytes() == other.map.tobytes() and one.values.tobytes() == other.values.tobytes()
    capture = opened(one.map.nbytes + one.values.nbytes)
    kept, again = twice(capture, everything)
    assert kept is again
    late, again = twice(capture, fewer)
    assert late is not again and len(late.map) == len(fewer)


def test_what_lies_behind_the_wanted_values_is_left_out() -> None:
    block, feeds = graphs.attention_block(), graphs.feeds("4d")
    data, rows = as_dataset(feeds), np.arange(graphs.B)
    whole = expose(block.model, [("p", TensorProto.FLOAT)])
    short = only(expose(whole, []), ["p"])
    assert len(short.graph.node) < len(whole.graph.node)
    (_, want), (_, got) = (next(Runner(one, Path(), 1).batches(data, rows, graphs.B, ["p"])) for one in (whole, short))
    assert got["p"].tobytes() == want["p"].tobytes()
