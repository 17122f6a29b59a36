"""`patch --passes`, `--mend` and `--accept`: with a hotfix, without one, and where the graph or the other options
forbid it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.hotfix.file import Hotfix, HotfixSite
from atpatch_onnx.patching.apply import patch_model
from rewriters.editing.patcher import patch, stamp, unpatch
from rewriters.finding.finder import find_sites
from rewriters.model import io as model_io
from rewriters.plan import BenignPair, PatchPlan, SitePlan, Static
from tests.exports import export_model
from tests.rewriters.editing.excised import CUT, named, without
from tests.rewriters.running import run_all

PAIR = BenignPair(np.array([1.0], np.float32))


@pytest.fixture(scope="module")
def bert():
    return export_model("bert", "torchscript")


def outputs(path, feeds):
    return run_all(onnx.load(path), feeds)


def classifier(encoder: onnx.ModelProto) -> onnx.ModelProto:
    """The encoder with its first token's state for scores (B, 32); axes named for excision."""
    model = named(encoder)
    state = model.graph.output[0].name
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array(0), "first"))
    model.graph.node.append(onnx.helper.make_node("Gather", [state, "first"], ["logits"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(onnx.helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", 32]))
    return model


def hotfix_for(model: onnx.ModelProto, folder, *plans: SitePlan, **options: object) -> Hotfix:
    sites, _ = find_sites(model)
    entries = tuple(
        HotfixSite(one.id, index, one.heads, one.fingerprint, plan)
        for index, (one, plan) in enumerate(zip(sites, plans, strict=True))
    )
    return Hotfix(entries, 0.5, model_io.weights_digest(model, folder), **options)


def test_without_a_hotfix_flags_are_carried_to_sites_of_the_same_tokens(bert, tmp_path):
    patch_model(bert.path, tmp_path / "one.onnx", detector="statistic", threshold=1.0, telemetry=True)
    got = outputs(tmp_path / "one.onnx", bert.feeds(4))
    first, second = (got[name] for name in got if name.startswith("atpatch_columns/"))
    assert first.any() and second[first].all()


def test_two_passes_without_a_hotfix(bert, tmp_path, atpatch):
    run = atpatch(
        "patch", bert.path, "-o", tmp_path / "two.onnx", "--passes", "two", "--detector", "static", "--columns", "1"
    )
    assert run.code == 0 and "two" in run.err
    assert stamp(onnx.load(tmp_path / "two.onnx"))["passes"] == "two"
    patch_model(bert.path, tmp_path / "one.onnx", detector="static", columns=(1,))
    feeds = bert.feeds(3)
    one, two = outputs(tmp_path / "one.onnx", feeds), outputs(tmp_path / "two.onnx", feeds)
    for name, array in one.items():
        # A set that is the same for every map comes to the same in both forms.
        np.testing.assert_allclose(two[name], array, atol=1e-5)
        assert not np.allclose(array, outputs(bert.path, feeds)[name], atol=1e-3)


def test_excision_answers_the_request_without_the_tokens(bert, tmp_path, atpatch):
    model = named(onnx.load(bert.path))
    onnx.save(model, tmp_path / "bert.onnx")
    options = ("--detector", "static", "--columns", "2,4", "--passes", "two", "--mend", "excise")
    assert atpatch("patch", tmp_path / "bert.onnx", "-o", tmp_path / "p.onnx", *options).code == 0
    feeds = bert.feeds(3)
    kept = np.delete(np.arange(feeds["input_ids"].shape[1]), CUT)
    got, want = outputs(tmp_path / "p.onnx", feeds), run_all(model, without(feeds, CUT))
    for name, array in want.items():
        np.testing.assert_allclose(got[name][:, kept], array[:, : len(kept)], atol=1e-4)
    # The exporter's own names do not say which axis of the output is the tokens'.
    run = atpatch("patch", bert.path, "-o", tmp_path / "q.onnx", *options)
    assert (
        run.code == 2
        and "ATP023" in run.err
        and "--mend redistribute" in run.err
        and not (tmp_path / "q.onnx").exists()
    )


def test_two_passes_are_refused_where_no_sites_can_be_joined(tmp_path, atpatch):
    swin = export_model("swin", "torchscript")
    run = atpatch("patch", swin.path, "-o", tmp_path / "two.onnx", "--detector", "statistic", "--passes", "two")
    assert run.code == 2 and "ATP023" in run.err and "same tokens" in run.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "options", [{}, {"accept": "flip"}, {"mend": "excise"}], ids=["redistributed", "flips", "excised"]
)
def test_two_passes_without_a_branch_answer_as_with_one(bert, tmp_path, options):
    """Unflagged samples bit for bit as the original, flagged ones as the second run in the branch; only the cost
    differs.
    """
    original, feeds = tmp_path / "model.onnx", bert.feeds(16, padded=True)
    onnx.save_model(classifier(onnx.load(bert.path)), original)
    given = {"detector": "statistic", "threshold": 0.8, "passes": "two", "telemetry": True, **options}
    gated, free = (tmp_path / f"{gating}.onnx" for gating in ("if", "none"))
    for path in (gated, free):
        done = patch_model(original, path, gating=path.stem, **given)
        assert done.gating == path.stem
    assert any("twice" in note for note in done.notes)
    assert all(node.op_type != "If" for node in onnx.load(free).graph.node)
    before, with_branch, without = (outputs(path, feeds) for path in (original, gated, free))
    flagged = with_branch["atpatch_flagged"].any(1)
    assert flagged.any() and not flagged.all()
    for name, array in before.items():
        np.testing.assert_allclose(without[name], with_branch[name], atol=1e-5)
        assert without[name][~flagged].tobytes() == array[~flagged].tobytes()
        assert not np.allclose(without[name], array, atol=1e-3)
    off = outputs(free, {**feeds, "atpatch_enabled": np.array(False)})
    assert all(off[name].tobytes() == array.tobytes() for name, array in before.items())
    assert unpatch(onnx.load(free)) == onnx.load(original)


def test_a_target_without_branches_keeps_the_branch_of_two_passes(bert, tmp_path):
    """A second run in every request costs more than a branch, so it has to be asked for."""
    done = patch_model(bert.path, tmp_path / "two.onnx", detector="statistic", passes="two", target="cuda")
    assert done.gating == "if" and stamp(onnx.load(tmp_path / "two.onnx"))["gating"] == "if"


@pytest.mark.parametrize(
    "options",
    [{"accept": "flip"}, {"mend": "excise"}, {"passes": "one", "accept": "always"}],
    ids=["accept-alone", "mend-alone", "accept-of-one"],
)
def test_contradictions_are_refused(bert, tmp_path, options):
    with pytest.raises(AtpatchError) as error:
        patch_model(bert.path, tmp_path / "p.onnx", detector="statistic", **options)
    assert error.value.code == "ATP060"
    assert not list(tmp_path.iterdir())


def test_a_hotfix_brings_its_passes_and_options_override_them(bert, tmp_path):
    model = model_io.load(bert.path)
    sites, _ = find_sites(model)
    silent, firing = SitePlan(Static(), PAIR), SitePlan(Static((2,)), PAIR)
    names = tuple(site.id for site in sites)
    hotfix = hotfix_for(model, bert.path.parent, silent, firing, groups=(names,), passes="two")
    done = patch_model(bert.path, tmp_path / "two.onnx", hotfix=hotfix)
    assert (done.passes, done.detector) == ("two", "static")
    done = patch_model(bert.path, tmp_path / "one.onnx", hotfix=hotfix, passes="one")
    assert done.passes == "one"
    everywhere = PatchPlan(dict.fromkeys(names, firing))
    late = replace(everywhere, sites={names[0]: silent, names[1]: firing})
    feeds = bert.feeds(3)
    for file, plan in (("two.onnx", everywhere), ("one.onnx", late)):
        got, want = outputs(tmp_path / file, feeds), run_all(patch(model, plan, sites), feeds)
        for name, array in want.items():
            np.testing.assert_allclose(got[name], array, atol=1e-5)


def test_filters_cut_groups_too_and_never_leave_silent_sites_alone(bert, tmp_path):
    model = model_io.load(bert.path)
    names = tuple(site.id for site in find_sites(model)[0])
    hotfix = hotfix_for(
        model, bert.path.parent, SitePlan(Static((2,)), PAIR), SitePlan(Static(), PAIR), groups=(names,)
    )
    done = patch_model(bert.path, tmp_path / "p.onnx", hotfix=hotfix, include=r"layer\.0")
    assert done.sites == names[:1]
    with pytest.raises(AtpatchError) as error:
        patch_model(bert.path, tmp_path / "q.onnx", hotfix=hotfix, include=r"layer\.1")
    assert error.value.code == "ATP010"
