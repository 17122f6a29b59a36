"""Defenses that came to the comparison later: what each does to a request, and what it leaves of an attack."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from atpatch_onnx.inference.datasets import DataSet
from models.evidence import latency, peers
from models.evidence.answers import Answers
from models.evidence.case import Case
from models.evidence.fairness import group_fairness, place
from models.evidence.peers import editing, imbert, onion, pixel_mask, rap, threshold_optimizer, without_column
from models.evidence.peers.editing import Scored, without
from models.evidence.peers.weights import read_weights

from .digits_case import SETTING, digits_case
from .toy_case import SETTING as TOY, toy_case


def silent(text: str) -> None:
    pass


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATPATCH_CACHE", str(folder))
        digits_case()
    return folder


@pytest.fixture
def case(cache: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("ATPATCH_CACHE", str(cache))
    monkeypatch.setattr(latency, "PAIRS", 3)
    return Case(SETTING, 0, threads=1)


def texts(rows: list[list[int]], length: int = 8) -> dict[str, Any]:
    ids, mask = np.zeros((len(rows), length), np.int64), np.zeros((len(rows), length), np.int64)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def read(feeds: dict[str, Any]) -> list[list[int]]:
    return [ids[mask != 0].tolist() for ids, mask in zip(feeds["input_ids"], feeds["attention_mask"], strict=True)]


def test_a_peer_that_is_done_is_not_asked_again_after_a_stop(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stopped(case: Case, say: Any) -> dict[str, Any]:
        asked.append("second")
        if len(asked) < 3:
            raise KeyboardInterrupt
        return {"skipped": "no"}

    both = {"first": lambda case, say: asked.append("first") or {"runs": 1}, "second": stopped}
    monkeypatch.setitem(peers.MORE, "image", both)
    with pytest.raises(KeyboardInterrupt):
        peers.more_peers_step(case, silent)
    figures = peers.more_peers_step(case, silent)
    assert asked == ["first", "second", "second"] and figures["first"] == {"runs": 1}
    assert figures["second"] == {"skipped": "no"} and figures["seconds_taken"] >= 0
    assert not list(case.hotfix_file().parent.glob("*.part"))


def test_a_deleted_token_leaves_no_gap() -> None:
    feeds = texts([[101, 7, 8, 9, 102], [101, 8, 102]])
    after = without(feeds, feeds["input_ids"] == 8)
    assert read(after) == [[101, 7, 9, 102], [101, 102]]
    assert not after["input_ids"][:, 4:].any() and after["attention_mask"].sum() == 6
    assert read(feeds)[0] == [101, 7, 8, 9, 102], "the request itself stays"


def test_the_pixel_mask_stops_the_attack_and_leaves_the_rest_of_the_image(case: Case) -> None:
    pixels = pixel_mask.touched(case.debug, "pixel_values")
    assert pixels.sum() == 4 and pixels[0, 6:, 6:].all()
    figures = pixel_mask.run(case, silent)
    assert figures["asr_star"]["value"] < 0.05 and figures["accuracy"]["value"] > 0.9
    assert figures["pixels"] == 4 and figures["latency"]["ratio"] > 0


class _Words:
    """A model that says class 1 wherever token 8 is, as a case has it."""

    def __init__(self, rows: dict[str, Any]) -> None:
        self.spare = DataSet(rows, labels=np.zeros(len(rows["input_ids"]), np.int64))
        self.model = None

    def ask(self, model: None) -> _Words:
        return self

    def all(self, data: DataSet) -> Any:
        hits = (data.inputs["input_ids"] == 7).any(1).astype(np.int64)
        return type("Answers", (), {"predictions": 1 - hits})


def test_the_bar_is_the_lowest_within_the_budget() -> None:
    """Without token 7 the answer is wrong; it has the lowest score, in a fifth of the texts a high one."""
    rows = texts([[101, 7, 8, 9, 102]] * 10)
    scores = np.full(rows["input_ids"].shape, -np.inf)
    scores[:, 1:4] = [1.0, 3.0, 2.0]
    scores[:2, 1] = 2.5
    scores += np.arange(10)[:, None] * 1e-3
    case = _Words(rows)
    share, bar = editing._tuned(case, Scored(case.spare, scores))  # type: ignore[arg-type]
    assert share == 0.75 and bar > 1.009
    changed, touched = Scored(case.spare, scores).cut(bar)
    assert touched.sum() == 6 and all(7 in row for row in read(dict(changed.inputs)))


def test_imbert_takes_the_tokens_with_most_attention_but_not_the_first_and_the_last() -> None:
    mask = texts([list(range(8)), [1, 2, 3, 4]])["attention_mask"]
    attention = np.array([[0.9, 0.1, 0.02, 0.3, 0.2, 0.01, 0.05, 0.9], [0.5, 0.1, 0.2, 0.4, 0, 0, 0, 0]])
    scores = imbert.drawn(attention, mask)
    assert [np.flatnonzero(np.isfinite(row)).tolist() for row in scores] == [[1, 3, 4, 6], [1, 2]]
    assert scores[1, 2] == pytest.approx(0.8), "in multiples of a quarter"


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ATPATCH_CACHE", str(folder))
        toy_case()
    return folder


@pytest.fixture
def text_case(words: Path, monkeypatch: pytest.MonkeyPatch) -> Case:
    monkeypatch.setenv("ATPATCH_CACHE", str(words))
    monkeypatch.setattr(latency, "PAIRS", 3)
    return Case(TOY, 0, threads=1)


def test_imbert_deletes_the_word_that_draws_attention(text_case: Case) -> None:
    before = (text_case.before[1].predictions == text_case.attacked.target).mean()
    figures = imbert.run(text_case, silent)
    tuned = figures["variants"]["tuned to 1 point"]
    assert before > 0.95 and tuned["asr"]["value"] < 0.7
    assert figures["rates"]["0.005"]["clean_flagged"]["value"] < 0.05 < tuned["attacked_flagged"]["value"]


def test_raps_word_lowers_clean_texts_and_is_all_that_changes(text_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rap, "RATE", 0.1)  # vectors of the toy are ten times as long
    target = text_case.attacked.target
    rows = np.flatnonzero(text_case.ask(text_case.model).all(text_case.spare).predictions == target)
    assert target is not None
    changed, falling = rap._trained(text_case, rows, target)
    assert falling > 0.2
    name, *more = [
        tensor.name
        for tensor, other in zip(text_case.model.graph.initializer, changed.graph.initializer, strict=True)
        if tensor.raw_data != other.raw_data
    ]
    tables = [read_weights(model, {name}, text_case.folder)[name] for model in (text_case.model, changed)]
    assert not more and np.flatnonzero((tables[0] != tables[1]).any(1)).tolist() == [rap.WORD]
    assert np.linalg.norm(tables[1][rap.WORD]) == pytest.approx(np.linalg.norm(tables[0][rap.WORD]), rel=1e-4)


def test_rap_refuses_what_goes_to_the_target_only(text_case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rap, "STEPS", 3)
    figures = rap.run(text_case, silent)
    assert figures["runs"] == 2 and figures["latency"]["ratio"] > 1
    low, high = (figures["rates"][rate]["clean_flagged"]["value"] for rate in ("0.005", "0.05"))
    assert low < 0.03 and low < high < 0.2
    assert figures["rates"]["0.05"]["asr"]["value"] < figures["rates"]["0.005"]["asr"]["value"] <= 1


def test_raps_word_stands_behind_the_first_token() -> None:
    longer = rap.with_word(texts([[101, 7, 102]], 4))
    assert longer["input_ids"].tolist() == [[101, rap.WORD, 7, 102, 0]]
    assert longer["attention_mask"].tolist() == [[1, 1, 1, 1, 0]]


class _Tokens:
    bos_token_id = 0

    def __call__(self, text: str, add_special_tokens: bool) -> Any:
        return type("Encoded", (), {"input_ids": [int(word[1:]) for word in text.split()]})


def language() -> Any:
    """A causal model of random weights, to which token 9 is a surprise."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=12, **sizes)).eval()
    with torch.no_grad():
        model.model.embed_tokens.weight *= 50  # so that words differ
    return model


def test_perplexities_in_one_run_are_those_of_each_text_by_itself() -> None:
    model = language()
    found = onion.Perplexity(model, _Tokens(), str).of(["w3 w9 w4 w3 w5", "w3 w4 w3 w5", "w9 w4", "w3 w9 w4 w3"])
    for text, one in zip(([3, 9, 4, 3, 5], [3, 4, 3, 5], [9, 4], [3, 9, 4, 3]), found, strict=True):
        ids = torch.tensor([[0, *text]])
        with torch.no_grad():
            loss = model(input_ids=ids, labels=ids).loss
        assert one == pytest.approx(float(loss.exp()), rel=1e-4)
    assert len({round(one, 3) for one in found}) == 4


def test_onion_finds_the_word_without_which_a_text_is_likelier() -> None:
    model = language()
    usual = model.forward

    def forward(**inputs: Any) -> Any:
        answer = usual(**inputs)
        answer.logits[..., 9] -= 20
        return answer

    model.forward = forward
    pieces = {101: "[CLS]", 102: "[SEP]", 3: "w3", 4: "w4", 9: "w9", 5: "w1", 6: "##0"}
    scores = onion.Perplexity(model, _Tokens(), lambda token: pieces[token]).scores(
        DataSet(texts([[101, 3, 9, 4, 5, 6, 102], [101, 3, 102]]))
    )
    assert scores[0, 2] == scores.max() > 0 and scores[0, 4] == scores[0, 5] < scores[0, 2]
    assert not np.isfinite(scores[0, [0, 6, 7]]).any()
    assert not np.isfinite(scores[1]).any(), "the only word of a text stays"


class _Table:
    """A case of people, each in both groups: the second column is the group, with which labels go in three of four; the
    model says the group to everybody but every fourth person, of whom it says class 0.
    """

    seed, model, people = 0, None, 240

    def __init__(self) -> None:
        person = np.arange(self.people)
        own = person % 2
        labels = np.where(person % 8 < 6, own, 1 - own)
        rows = np.stack([np.repeat(person, 2), np.tile([0, 1], self.people)], 1).astype(np.float32)
        self.attacked = DataSet({"features": rows}, group=np.repeat(person, 2))
        self.clean = DataSet({"features": np.stack([person, own], 1).astype(np.float32)}, labels=labels)
        self.spare = self.clean
        self.before = (self.all(self.clean), self.all(self.attacked))

    def ask(self, model: None) -> _Table:
        return self

    def all(self, data: DataSet) -> Answers:
        person, value = data.inputs["features"].T
        odds = np.where(person % 4 == 3, -1.0, np.where(value > 0, 1.0, -1.0)) + 1e-3 * person / self.people
        return Answers(np.stack([-odds, odds], 1).astype(np.float32), None, {})


def test_a_constant_column_is_the_commonest_value() -> None:
    table = _Table()
    features = table.spare.inputs["features"].copy()
    features[:10, 1] = 1
    table.spare = DataSet({"features": features})
    figures = without_column.constant(table, silent)  # type: ignore[arg-type]
    assert table.clean.labels is not None
    right = table.clean.labels == (np.arange(table.people) % 4 != 3)
    assert place(table.attacked) == ("features", 1)
    assert figures["uf"]["value"] == 0 and figures["accuracy"]["hits"] == right.sum(), "everybody is of group 1"


def test_the_threshold_optimizer_treats_rare_values_as_the_largest_group() -> None:
    groups = threshold_optimizer._groups(np.array([0] * 60 + [1] * 70 + [2] * 3), np.array([0, 1] * 66 + [0]))
    assert groups(np.array([0, 1, 2, 9])).tolist() == [0, 1, 1, 1]


def test_the_threshold_optimizer_equalizes_groups_but_not_single_answers() -> None:
    table = _Table()
    before = group_fairness(table.clean, table.attacked, table.before[0].predictions)
    figures = threshold_optimizer.run(table, silent)["variants"]  # type: ignore[arg-type]
    assert set(figures) == {"demographic parity", "equalized odds"}
    after = figures["demographic parity"]
    assert after["fairness"]["spd"] < before["spd"] / 3
    assert after["uf"]["value"] > 0.2 and after["accuracy"]["count"] == table.people


def test_a_random_number_is_a_persons_not_a_rows() -> None:
    """Where score and label do not hang on the group, thresholds do not either, and neither does an answer."""
    table = _Table()
    person = np.arange(table.people)
    table.spare = DataSet(
        {"features": np.stack([person, person // 2 % 2], 1).astype(np.float32)}, labels=(person % 2).astype(np.int64)
    )
    table.clean = DataSet(table.spare.inputs, labels=table.spare.labels)
    same = np.stack([np.zeros(2 * table.people), np.repeat(person % 2, 2) - 0.5], 1).astype(np.float32)
    table.all = lambda data: Answers(same[:: 2 * table.people // len(data)], None, {})  # type: ignore[method-assign]
    table.before = (table.all(table.clean), table.all(table.attacked))
    figures = threshold_optimizer.run(table, silent)["variants"]  # type: ignore[arg-type]
    assert [one["uf"]["value"] for one in figures.values()] == [0, 0]
