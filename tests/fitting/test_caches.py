"""A model with key-value caches: a fit heals what its detectors flag, so that the cache carries the repair."""

from __future__ import annotations

import functools
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner

from atpatch_onnx import Hotfix, fit, patch
from atpatch_onnx.cli import cli
from atpatch_onnx.errors import AtpatchError
from atpatch_onnx.inference.datasets import DataSet
from atpatch_onnx.inference.generation import generate
from atpatch_onnx.inference.runner import Runner
from atpatch_onnx.inference.sessions import session
from rewriters.names import FLAGGED
from tests import backdoored_llama as llama
from tests.merged import causal
from tests.schemas import problems

STEPS = llama.ANSWER_LENGTH
Feeds = dict[str, np.ndarray]


@functools.cache
def folder_of_the_fit() -> Path:
    """With `model.hotfix`, the page `fit.html`, and `said.txt`, what the command printed."""
    folder = Path(_kept().name)
    np.savez(folder / "debug.npz", **llama.debugging_set())
    words = [
        "fit",
        llama.exported(True),
        "--debug",
        folder / "debug.npz",
        "-o",
        folder / "model.hotfix",
        "--threads",
        1,
    ]
    words += ["--answer-tokens", ",".join(map(str, llama.ANSWERS)), "--answer-length", STEPS]
    done = CliRunner().invoke(cli, [*map(str, words), "--report", str(folder / "fit.html")])
    assert done.exit_code == 0, done.output
    (folder / "said.txt").write_text(done.output, "utf-8")
    return folder


@functools.cache
def fitted() -> Hotfix:
    return Hotfix.load(folder_of_the_fit() / "model.hotfix")


@functools.cache
def _kept() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory(prefix="healed-llama-")


@functools.cache
def patched() -> Path:
    path = Path(_kept().name) / "patched.onnx"
    patch(llama.exported(True), path, hotfix=fitted(), telemetry=True)
    return path


def answers(path: Path, rows: Feeds) -> np.ndarray:
    """(N, STEPS) tokens of a loop with caches."""
    data = DataSet.from_arrays(rows)
    return generate(Runner(onnx.load(path), path.parent, 1), data, np.arange(len(data)), STEPS).tokens


def test_the_backdoor_works_before() -> None:
    said = answers(llama.exported(True), llama.prompts(60, seed=7, copies=1))
    assert (said[:, 0] == llama.ANSWERS[llama.TARGET]).mean() > 0.95


def test_it_heals_by_itself_from_early_sites() -> None:
    hotfix = fitted()
    probe = hotfix.evidence["calibration"]["probe"]
    assert (hotfix.mend, hotfix.passes, hotfix.detector) == ("heal", "two", "profile")
    assert probe["depth"] == len(hotfix.sites) < probe["sites"] == 3
    assert 0 < probe["nodes_share"] < probe["layers_share"] + 0.2


def test_it_is_judged_on_whole_answers_of_rows_that_were_held_back() -> None:
    whole = fitted().evidence["report"]["whole_answers"]
    assert whole["length"] == STEPS
    assert whole["before"]["recovered"]["rate"] < 0.5 < 0.95 <= whole["after"]["recovered"]["rate"]
    assert whole["after"]["clean_changed"]["k"] == 0


def test_terminal_page_and_json_tell_what_a_prompt_costs() -> None:
    said, page = (
        " ".join((folder_of_the_fit() / name).read_text("utf-8").split()) for name in ("said.txt", "fit.html")
    )
    depth = len(fitted().sites)
    assert "flagged tokens healed; prefill and decoding with caches; prompts of" in said
    assert f"the first {depth} of 3, so a flagged prompt runs {depth / 3:.0%} of its layers twice" in said
    assert f"whole answers of {STEPS} tokens" in said
    assert f"The first {depth} of 3 sites detect" in page and "flagged tokens are healed" in page
    assert problems("fit", {"output": "model.hotfix", **fitted().describe()}) == []


@pytest.mark.parametrize("copies", [1, 3])
def test_attacks_are_stopped_in_a_loop_with_caches(copies: int) -> None:
    rows = llama.prompts(80, seed=7, copies=copies)
    clean = llama.prompts(80, seed=7)
    wanted, said = answers(llama.exported(True), clean), answers(patched(), rows)
    assert np.array_equal(wanted[:, 0], np.array(llama.ANSWERS)[clean["labels"]])
    assert (said == wanted).all(1).mean() >= 0.95


def test_clean_prompts_keep_every_bit_in_prefill_and_decoding() -> None:
    rows = llama.prompts(20, seed=8)
    for ids, mask in zip(rows["input_ids"], rows["attention_mask"], strict=True):
        calls = [loop(path, ids[mask == 1], STEPS) for path in (llama.exported(True), patched())]
        assert all(np.array_equal(one, other) for one, other in zip(*calls, strict=True))


def test_a_prompt_in_pieces_is_healed_and_a_clean_one_not_flagged() -> None:
    assert not pieces_flagged(0).any()
    assert pieces_flagged(1).any(1).mean() >= 0.9


def pieces_flagged(copies: int) -> np.ndarray:
    """(N, 2): prompts in two calls."""
    run, found = session(patched(), threads=1), []
    for ids in (row[row != 0] for row in llama.prompts(30, seed=9, copies=copies)["input_ids"]):
        first, last = np.array_split(ids, 2)
        before = call(run, first, 0, empty(run))
        after = call(run, last, len(first), carried(run, before))
        found.append([one[FLAGGED].any() for one in (before, after)])
    return np.array(found)


def test_the_hotfix_says_for_which_calls_it_was_fitted(tmp_path: Path) -> None:
    fitted().save(tmp_path / "model.hotfix")
    described = Hotfix.load(tmp_path / "model.hotfix").describe()
    assert described["calls"] == "cached"
    assert described["lengths"]["shortest"] >= llama.SHORTEST and described["lengths"]["longest"] <= llama.LONGEST + 2


@pytest.mark.parametrize("cache", [True, False], ids=["on a graph without caches", "on a graph with caches"])
def test_a_hotfix_for_other_calls_is_refused_unless_forced(cache: bool) -> None:
    hotfix = replace(fitted(), calls="cached" if cache else "whole")
    with pytest.raises(AtpatchError, match="key-value caches") as refused:
        patch(llama.exported(not cache), hotfix=hotfix)
    assert refused.value.code == "ATP054" and "fit one on this graph" in refused.value.fix
    patch(llama.exported(not cache), hotfix=hotfix, force=True)


def test_another_repair_of_what_was_fitted_for_healing_is_refused() -> None:
    with pytest.raises(AtpatchError, match="leave --mend out"):
        patch(llama.exported(True), hotfix=fitted(), mend="redistribute")


def test_a_hotfix_that_does_not_say_its_calls_is_patched_with_a_remark() -> None:
    older = replace(fitted(), calls="", mend="redistribute")
    assert any("key-value caches" in note for note in patch(llama.exported(True), hotfix=older).notes)
    assert not any("key-value caches" in note for note in patch(llama.exported(True), hotfix=fitted()).notes)


@pytest.mark.parametrize("options", [{"mend": "redistribute"}, {"mend": "excise"}, {"passes": "one"}])
def test_what_does_harm_in_a_loop_with_caches_is_refused_with_a_way_out(options: Any) -> None:
    with pytest.raises(AtpatchError, match="--mend heal") as refused:
        fit(llama.exported(True), llama.debugging_set(40), answer_tokens=llama.ANSWERS, threads=1, **options)
    assert refused.value.code == "ATP023"


@pytest.mark.parametrize("kind", ["static", "cnn", "oneclass", "statistic"])
def test_kinds_that_do_not_read_the_answer_row_are_refused(kind: str) -> None:
    with pytest.raises(AtpatchError, match=kind) as refused:
        fit(llama.exported(True), llama.debugging_set(40), answer_tokens=llama.ANSWERS, threads=1, detector=kind)
    assert refused.value.code == "ATP023"


def merged() -> Path:
    return causal(llama.folder(), llama.exported(True))


@functools.cache
def of_merged() -> Hotfix:
    return fit(merged(), llama.debugging_set(160), answer_tokens=llama.ANSWERS, threads=1)


def test_a_hotfix_of_a_merged_decoder_has_the_ids_that_sites_have_in_files_of_their_own() -> None:
    found = of_merged()
    assert (found.mend, found.calls, found.detector) == ("heal", "cached", "profile")
    alone = {site.id: site.fingerprint for site in fitted().sites}
    assert found.sites and all(alone[site.id] == site.fingerprint for site in found.sites)
    assert found.evidence["report"]["after"]["asr_star"]["rate"] < 0.1


@pytest.mark.parametrize("copies", [0, 1])
def test_a_merged_decoder_is_healed_in_both_branches(copies: int, tmp_path: Path) -> None:
    of_merged().save(tmp_path / "decoder_model_merged.hotfix")
    done = patch(merged(), tmp_path / "decoder_model_merged.onnx", hotfix=tmp_path / "decoder_model_merged.hotfix")
    assert len(done.sites) == 2 * len(of_merged().sites) and done.notes == ()
    rows, clean = llama.prompts(60, seed=7, copies=copies), llama.prompts(60, seed=7)
    said, wanted = answers(tmp_path / "decoder_model_merged.onnx", rows), answers(merged(), clean)
    assert (said == wanted).all(1).mean() >= (0.95 if copies else 1)


def test_a_hotfix_of_the_file_with_a_past_is_for_other_weights_unless_forced(tmp_path: Path) -> None:
    """The names of the weights are others, so nothing shows that they are the same."""
    with pytest.raises(AtpatchError, match="weights") as refused:
        patch(merged(), tmp_path / "p.onnx", hotfix=fitted())
    assert refused.value.code == "ATP054"
    patch(merged(), tmp_path / "p.onnx", hotfix=fitted(), force=True)
    said = answers(tmp_path / "p.onnx", llama.prompts(40, seed=7, copies=1))
    assert (said == answers(merged(), llama.prompts(40, seed=7))).all(1).mean() >= 0.95


def test_a_merged_decoder_of_another_structure_is_refused(tmp_path: Path) -> None:
    other = replace(of_merged(), sites=tuple(replace(site, fingerprint="0" * 16) for site in of_merged().sites))
    with pytest.raises(AtpatchError, match="0000000000000000") as refused:
        patch(merged(), tmp_path / "p.onnx", hotfix=other)
    assert refused.value.code == "ATP054" and not list(tmp_path.iterdir())


def loop(path: Path, ids: np.ndarray, steps: int) -> list[np.ndarray]:
    """Logits and caches of a call on the prompt and of steps of one token."""
    run = session(path, threads=1)
    found = call(run, ids, 0, empty(run))
    outputs = [array for name, array in found.items() if "atpatch" not in name]
    for step in range(steps):
        token = found["logits"][0, -1:].argmax(1)
        found = call(run, token, len(ids) + step, carried(run, found))
        outputs += [array for name, array in found.items() if "atpatch" not in name]
    return outputs


def empty(run: Any) -> Feeds:
    return {
        value.name: np.zeros([1, value.shape[1], 0, value.shape[3]], np.float32)
        for value in run.get_inputs()
        if value.name.startswith("past")
    }


def carried(run: Any, found: Feeds) -> Feeds:
    return {name: found[name.replace("past_key_values", "present")] for name in empty(run)}


def call(run: Any, ids: np.ndarray, past: int, caches: Feeds) -> Feeds:
    made = {
        "input_ids": ids[None].astype(np.int64),
        "attention_mask": np.ones((1, past + len(ids)), np.int64),
        "position_ids": np.arange(past, past + len(ids), dtype=np.int64)[None],
    }
    wanted = {value.name for value in run.get_inputs()}
    names = [value.name for value in run.get_outputs()]
    feeds = {name: array for name, array in made.items() if name in wanted}
    return dict(zip(names, run.run(names, {**feeds, **caches}), strict=True))
