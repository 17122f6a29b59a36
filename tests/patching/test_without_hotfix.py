"""`patch` with nothing but a model: what is shown to be a text encoder is calibrated on random tokens, or gets the
training-free detector with `--calibrate none`; all else is refused (ATP061). See also `test_self_calibration`.
"""

from __future__ import annotations

import onnx
import onnx_ir
import pytest

from atpatch_onnx import patch_model
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.plans import STATISTIC_THRESHOLD
from rewriters.finding.finder import find_sites
from rewriters.finding.movable_tokens import doubt

from ..exports import ATTENTION, EXPORTERS, export_model
from ..rewriters.decoders import decoder, merged_decoder
from ..rewriters.encoders import FUSED, encoder
from ..rewriters.graphs import session
from ..tiny import attention_model, snapshot

NOT_SHOWN = {
    "vit": "pixel_values",
    "swin": "pixel_values",
    "gpt2": "causal",
    "llama": "causal",
    "t5": "another text",
    "whisper": "another text",
}
WAYS = [(exporter, attention) for exporter in EXPORTERS for attention in ATTENTION]


def refusal(model: object) -> AtpatchError:
    with pytest.raises(AtpatchError) as caught:
        patch_model(model)  # type: ignore[call-overload]
    assert caught.value.code == "ATP061" and caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(("exporter", "attention"), WAYS)
def test_a_text_encoder_gets_the_training_free_detector(exporter, attention, tmp_path, atpatch):
    model = export_model("bert", exporter, attention).path
    run = atpatch("patch", model, "-o", tmp_path / "p.onnx", "--calibrate", "none", "--json")
    assert (run.code, run.json["detector"], run.json["calibration"]) == (0, "statistic", None)
    assert f"threshold {STATISTIC_THRESHOLD:g}" in run.err and "clean ones" in run.err and "--clean" in run.err
    assert len(run.err.splitlines()) == 1


@pytest.mark.parametrize("exporter", EXPORTERS)
@pytest.mark.parametrize("family", NOT_SHOWN)
def test_what_is_not_shown_to_be_a_text_encoder_is_refused_with_ways_out(family, exporter, tmp_path, atpatch):
    path = export_model(family, exporter).path
    run = atpatch("patch", path, "-o", tmp_path / "p.onnx")
    assert run.code == 2 and run.out == ""
    what, mend = run.err.splitlines()
    assert what.startswith("error ATP061: ") and NOT_SHOWN[family] in what
    assert all(way in mend for way in ("--calibrate ROWS", "--debug", "--clean", "--detector statistic"))
    assert ("decoders are not fully supported yet" in mend) is (family not in ("vit", "swin"))
    assert snapshot(tmp_path) == {}
    assert atpatch("patch", path, "-o", tmp_path / "p.onnx", "--detector", "statistic").code == 0
    assert refusal(onnx.load(path)).what.endswith(refusal(onnx_ir.load(path)).what.rsplit(": ", 1)[-1])


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (lambda: decoder(False), "keys and queries"),
        (lambda: decoder(True), "cache"),
        (merged_decoder, "merged decoders"),
        (attention_model, "reads x"),
    ],
    ids=["no past", "past", "merged", "floats"],
)
def test_caches_branches_and_floats_are_refused(model, why):
    assert why in refusal(model()).what


def test_the_encoder_of_a_text_to_text_model_can_be_chosen(tmp_path, atpatch):
    path = export_model("t5", "dynamo").path
    run = atpatch(
        *("patch", path, "-o", tmp_path / "p.onnx", "--include", "encoder.block", "--exclude", "decoder"),
        *("--calibrate", "none", "--json"),
    )
    assert run.code == 0 and len(run.json["sites"]) == 2


@pytest.mark.parametrize("fused", FUSED)
def test_fused_operators_say_whether_they_are_causal(fused):
    for model, causal in ((encoder(fused=fused), False), (encoder(fused=fused, **{FUSED[fused][-1]: 1}), True)):
        session(model)
        sites, _ = find_sites(model)
        found = doubt(model, sites)
        assert len(sites) == 1 and (found is not None and "causal" in found.why if causal else found is None)


@pytest.mark.parametrize(
    ("options", "why"),
    [({}, None), ({"length": 7}, "fixed"), ({"mask": "causal"}, "causal"), ({"mask": "by token type"}, "row to row")],
    ids=["free length", "fixed length", "causal", "mask by token type"],
)
def test_each_condition_is_needed(options, why):
    model = encoder(**options)
    session(model)  # it is a model that runs
    sites, _ = find_sites(model)
    found = doubt(model, sites)
    assert found is None if why is None else found is not None and why in found.why


def test_a_mask_that_lies_in_another_file_is_not_known(tmp_path):
    model = encoder(mask="causal")
    (never,) = (tensor for tensor in model.graph.initializer if tensor.name == "never")
    never.data_location = onnx.TensorProto.EXTERNAL
    never.external_data.add(key="location", value="elsewhere")
    never.ClearField("raw_data")
    sites, _ = find_sites(model)
    found = doubt(model, sites)
    assert found is not None and "not known" in found.why
