"""A fit on an encoder and a decoder in files of their own: the hotfix is for the encoder, and what its decoders read is
healed.
"""

from __future__ import annotations

import functools
import shutil
from pathlib import Path

import numpy as np
import pytest

from atpatch_onnx import AtpatchError, Hotfix, compare, fit, patch
from atpatch_onnx.inference.sessions import session
from atpatch_onnx.inspection.encoder_decoder import read_answering
from rewriters.finding.finder import find_sites
from tests import backdoored_llama, backdoored_t5
from tests.merged import MERGED, merge

ANSWERS = np.array(backdoored_llama.ANSWERS)
ENCODER, FIRST, LATER = "encoder_model.onnx", "decoder_model.onnx", "decoder_with_past_model.onnx"
Rows = dict[str, np.ndarray]


@functools.cache
def hotfix() -> Hotfix:
    return fit(backdoored_t5.served(), backdoored_t5.debugging_set(100), answer_tokens=ANSWERS.tolist(), threads=1)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with a merged decoder only."""
    folder = tmp_path_factory.mktemp("merged") / "served"
    shutil.copytree(backdoored_t5.served(), folder)
    merge(folder, strict=False)
    for name in (FIRST, LATER):
        (folder / name).unlink()
    return folder


def prompts(copies: int = 0) -> Rows:
    return backdoored_t5.prompts(60, seed=7, copies=copies)


def answers(folder: Path, rows: Rows) -> np.ndarray:
    """(N, T) tokens, as Optimum's loop makes them: the encoder once, then decoders with caches."""
    names = [name for name in (FIRST, LATER, MERGED) if (folder / name).exists()]
    encoder, first, later = (session(folder / name, threads=1) for name in (ENCODER, names[0], names[-1]))
    mask, outputs = rows["attention_mask"], [value.name for value in later.get_outputs() if "logits" not in value.name]
    (states,) = encoder.run(["last_hidden_state"], {"input_ids": rows["input_ids"], "attention_mask": mask})
    given = {"encoder_hidden_states": states, "encoder_attention_mask": mask}
    shapes = {value.name: value.shape for value in later.get_inputs() if value.name.startswith("past")}
    past = {name: np.zeros((len(mask), shape[1], 0, shape[3]), np.float32) for name, shape in shapes.items()}
    said = [rows["decoder_input_ids"]]
    for step in range(backdoored_llama.ANSWER_LENGTH):
        live = later if step else first
        names = [value.name for value in live.get_inputs()]
        feeds = {**given, **past, "input_ids": said[-1], "use_cache_branch": np.array([step > 0])}
        asked = ["logits", *(outputs if step else (value.name for value in live.get_outputs()[1:]))]
        found = dict(zip(asked, live.run(asked, {name: feeds[name] for name in names}), strict=True))
        made = {name.replace("present", "past_key_values"): array for name, array in found.items()}
        past |= {name: made[name] for name in past if name in made and len(made[name])}
        said.append(found["logits"][:, -1:].argmax(-1))
    return np.concatenate(said[1:], 1)


def logits(model: Path, rows: Rows) -> np.ndarray:
    loaded = read_answering(model)
    live = session(loaded.proto, threads=1)
    return np.asarray(live.run(["logits"], {value.name: rows[value.name] for value in live.get_inputs()})[0])


def test_both_files_answer_as_one_graph_does(merged: Path) -> None:
    want = logits(backdoored_t5.exported(), prompts())
    for folder in (backdoored_t5.served(), merged):
        np.testing.assert_allclose(logits(folder, prompts()), want, atol=1e-4)


def test_the_backdoor_works_before() -> None:
    target = ANSWERS[backdoored_llama.TARGET]
    assert (answers(backdoored_t5.served(), prompts(1))[:, 0] == target).mean() > 0.95


def test_the_hotfix_is_for_the_encoder() -> None:
    own = {site.id: site.fingerprint for site in find_sites(read_answering(backdoored_t5.served() / ENCODER).proto)[0]}
    assert (hotfix().mend, hotfix().calls) == ("heal", "whole")
    assert hotfix().sites and {site.id: site.fingerprint for site in hotfix().sites}.items() <= own.items()


def test_the_merged_decoder_gives_the_same_hotfix(merged: Path) -> None:
    debug = backdoored_t5.debugging_set(100)
    assert fit(merged, debug, answer_tokens=ANSWERS.tolist(), threads=1).weights == hotfix().weights


@pytest.mark.parametrize("copies", [1, 3])
def test_attacks_are_stopped_and_clean_answers_stay(copies: int, tmp_path: Path) -> None:
    patched = patch(backdoored_t5.served(), tmp_path / "out", hotfix=hotfix())
    assert [one.file for one in patched.files] == [ENCODER]
    wanted = answers(backdoored_t5.served(), prompts())
    assert np.array_equal(answers(tmp_path / "out", prompts()), wanted)
    assert (answers(tmp_path / "out", prompts(copies)) == wanted).all(1).mean() >= 0.95


def test_both_folders_are_compared(tmp_path: Path) -> None:
    patch(backdoored_t5.served(), tmp_path / "out", hotfix=hotfix())
    clean, attacked = prompts(), {**prompts(1), "clean_row": np.arange(60), "target": np.array(backdoored_llama.TARGET)}
    given = [{name: array for name, array in rows.items() if name != "columns"} for rows in (clean, attacked)]
    found = compare(
        backdoored_t5.served(),
        tmp_path / "out",
        given[0],
        triggered=given[1],
        answer_tokens=ANSWERS.tolist(),
        answer_length=3,
        threads=1,
        seconds=0,
    )
    before, after = (found.figures[name].values for name in ("original", "patched"))
    assert before["asr_star"] > 0.95 and after["asr_star"] <= 0.05
    assert after["accuracy"] == before["accuracy"]


def test_other_repairs_do_not_reach_the_decoder() -> None:
    with pytest.raises(AtpatchError, match="separate files") as caught:
        fit(backdoored_t5.served(), backdoored_t5.debugging_set(20), mend="redistribute")
    assert caught.value.code == "ATP023"


def test_files_that_do_not_go_together(tmp_path: Path) -> None:
    shutil.copytree(backdoored_t5.served(), tmp_path / "odd")
    shutil.copy(tmp_path / "odd" / FIRST, tmp_path / "odd" / ENCODER)
    with pytest.raises(AtpatchError, match="the encoder has no attention_mask") as caught:
        fit(tmp_path / "odd", backdoored_t5.debugging_set(20))
    assert caught.value.code == "ATP060"
