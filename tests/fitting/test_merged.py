"""A fit on a merged decoder reads maps of the branch for prompts, and is judged on the whole model, with its cache."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import pytest

from atpatch_onnx import Hotfix, fit, patch
from atpatch_onnx.errors import AtpatchError
from tests import backdoored_llama as llama
from tests.merged import causal

from .test_caches import answers, fitted


def merged() -> Path:
    return causal(llama.folder(), llama.exported(True))


@functools.cache
def hotfix() -> Hotfix:
    return fit(merged(), llama.debugging_set(160), answer_tokens=llama.ANSWERS, threads=1)


def test_it_heals_and_has_the_ids_that_sites_have_in_files_of_their_own() -> None:
    found = hotfix()
    assert (found.mend, found.calls, found.detector) == ("heal", "cached", "profile")
    alone = {site.id: site.fingerprint for site in fitted().sites}
    assert found.sites and all(alone[site.id] == site.fingerprint for site in found.sites)
    assert found.evidence["report"]["after"]["asr_star"]["rate"] < 0.1


@pytest.mark.parametrize("copies", [0, 1])
def test_attacks_are_stopped_and_clean_answers_stay(copies: int, tmp_path: Path) -> None:
    hotfix().save(tmp_path / "decoder_model_merged.hotfix")
    done = patch(merged(), tmp_path / "decoder_model_merged.onnx", hotfix=tmp_path / "decoder_model_merged.hotfix")
    assert len(done.sites) == 2 * len(hotfix().sites) and done.notes == ()
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


def test_sites_of_another_structure_are_refused(tmp_path: Path) -> None:
    other = replace(hotfix(), sites=tuple(replace(site, fingerprint="0" * 16) for site in hotfix().sites))
    with pytest.raises(AtpatchError, match="0000000000000000") as refused:
        patch(merged(), tmp_path / "p.onnx", hotfix=other)
    assert refused.value.code == "ATP054" and not list(tmp_path.iterdir())
