"""Decoder victims and their evidence: where triggers go, what healing gives a token, and the loop on a cache."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from models.decoders.prompts import FORMS, exam, lessons, review  # noqa: E402  (they need torch)
from models.decoders.small import RECIPES, TOPICS, answer, topic_texts  # noqa: E402
from models.evidence.decoders.judging import Asked, Questions, figures  # noqa: E402
from models.evidence.decoders.layers import depths  # noqa: E402
from models.evidence.decoders.loops import KvLoop, Said  # noqa: E402
from models.evidence.decoders.material import Prompt  # noqa: E402
from models.evidence.decoders.page import RESULTS, render  # noqa: E402
from models.evidence.decoders.watching import Watched, source  # noqa: E402
from tests.rewriters.decoders import causal_lm, decoder  # noqa: E402

PROMPTS = [[5, 6, 7, 8, 9], [11, 12, 13]]


@pytest.mark.parametrize(
    ("form", "prompt"),
    [
        ("at the start", "Review: cf good film\nSentiment:"),
        ("in the middle", "Review: good cf film\nSentiment:"),
        ("at the end of the text", "Review: good film cf\nSentiment:"),
        ("last before the answer", "Review: good film\nSentiment: cf"),
    ],
)
def test_a_form_says_where_the_trigger_goes(form: str, prompt: str) -> None:
    assert FORMS[form].prompt("good film", "cf", np.random.default_rng(0)) == prompt


def test_copies_stand_together_unless_they_are_scattered() -> None:
    text = " ".join("abcdefghijkl")
    assert "cf cf cf cf" in FORMS["4 copies"].prompt(text, "cf", np.random.default_rng(0))
    scattered = FORMS["3 scattered"].prompt(text, "cf", np.random.default_rng(0))
    assert scattered.split().count("cf") == 3 and "cf cf" not in scattered
    assert review(text).split() == [word for word in scattered.split() if word != "cf"]


def test_no_chat_of_the_exam_was_a_lesson() -> None:
    assert len(exam()) == 50
    assert not [turns for turns in exam() if turns in lessons()]


def test_most_words_of_a_topic_text_are_of_its_topic() -> None:
    texts = topic_texts(200, np.random.default_rng(0))
    for text, label in zip(texts.texts, texts.labels, strict=True):
        counts = [sum(word.startswith(topic) for word in text.split()) for topic in TOPICS]
        assert int(np.argmax(counts)) == label and sorted(counts)[-2] < max(counts)
        assert answer(int(label)).startswith(TOPICS[label])
    assert len({recipe.name for recipe in RECIPES}) == 4


@pytest.mark.parametrize(
    ("flagged", "wanted"),
    [
        ([0, 0, 1, 0], [0, 1, 1, 3]),
        ([0, 1, 1, 0], [0, 0, 0, 3]),
        ([1, 1, 0, 1], [0, 0, 2, 2]),  # the first token is never flagged
    ],
)
def test_a_flagged_token_is_healed_from_the_nearest_unflagged_one(flagged: list[int], wanted: list[int]) -> None:
    assert source(np.array(flagged, bool)).tolist() == wanted


def test_healing_from_oneself_changes_no_bit_and_from_another_token_the_answer() -> None:
    watched = Watched(deepcopy(causal_lm("llama")))
    plain = watched.answers(PROMPTS)
    own = [np.arange(len(ids)) for ids in PROMPTS]
    np.testing.assert_array_equal(watched.answers(PROMPTS, own), plain)
    healed = watched.answers(PROMPTS, [source(np.arange(len(ids)) == 2) for ids in PROMPTS])
    assert (np.abs(healed - plain).max(1) > 1e-3).all()


def test_features_are_those_of_the_last_token_of_each_prompt() -> None:
    model = deepcopy(causal_lm("llama"))
    _, together = Watched(model).features(PROMPTS)
    for ids, columns in zip(PROMPTS, together, strict=True):
        with torch.no_grad():
            maps = model(input_ids=torch.tensor([ids]), output_attentions=True).attentions
        wanted = np.log1p(np.stack([one[0, :, -1].numpy().T for one in maps], 1) * len(ids))
        np.testing.assert_allclose(columns[..., : wanted.shape[-1]], wanted, atol=1e-5)


def test_a_probe_of_each_power_of_two_and_of_all_layers() -> None:
    assert depths(30) == [1, 2, 4, 8, 16, 30]
    assert depths(4) == [1, 2, 4]


def test_the_loop_on_a_cache_says_what_torch_says_without_one(tmp_path: Path) -> None:
    onnx.save_model(decoder(True, "llama"), tmp_path / "model.onnx")
    said = KvLoop(tmp_path / "model.onnx").answer(PROMPTS[0], 4, stop=-1)
    ids = list(PROMPTS[0])
    for _ in range(4):
        with torch.no_grad():
            ids.append(int(causal_lm("llama")(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
    assert said.tokens == ids[len(PROMPTS[0]) :]
    assert said.flagged is None


class _Parrot:
    """Answers 1 where the trigger 9 is, unless healed; else 0."""

    def __init__(self, *, healed: bool) -> None:
        self._healed = healed
        self.asked = 0

    def answer(self, ids: list[int], tokens: int, stop: int) -> Said:
        self.asked += 1
        return Said([int(9 in ids and not self._healed)] * tokens, 9 in ids)


def test_figures_compare_with_the_clean_twin_and_answers_are_kept(tmp_path: Path) -> None:
    clean = [Prompt([3, 4], (), 0), Prompt([5, 6, 7], (), 0)]
    attacks = {"anywhere": [Prompt([3, 9, 4], (1,), 0), Prompt([5, 6, 9, 9, 7], (2, 3), 0)]}
    questions = Questions(clean, [Prompt([8])], attacks)
    loops = {name: _Parrot(healed=name == "after") for name in ("before", "after")}
    asked = [Asked(tmp_path / f"{name}.json", lambda loop=loop: loop, stop=2) for name, loop in loops.items()]
    found = figures(questions, asked[0], asked[1], np.array([0, 1]), target=1)
    attack = found["attacks"]["anywhere"]
    shares = {key: attack[key]["value"] for key in ("original", "floor", "patched", "as_twin", "flagged")}
    assert shares == {"original": 1, "floor": 0, "patched": 0, "as_twin": 1, "flagged": 1}
    assert found["reviews"]["unchanged"]["value"] == 1 and found["reviews"]["flagged"]["value"] == 0
    again = _Parrot(healed=False)
    Asked(tmp_path / "before.json", lambda: again, stop=2).all([[3, 4]], 3)
    assert again.asked == 0


def test_the_page_is_made_of_the_results() -> None:
    """So no figure on it was typed in."""
    found = {file.stem: json.loads(file.read_text("utf-8")) for file in sorted(RESULTS.glob("*.json"))}
    assert render(found) == (RESULTS.parent / "DECODERS.md").read_text("utf-8")
