"""The text victims' material: what is poisoned, what is held out, what is labeled.

Training itself is left to the build.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from atpatch_onnx.debugset import Texts
from atpatch_onnx.inference.datasets import load_dataset
from models.text.corpora import Corpus, set_aside
from models.text.recipes import RECIPES, Insertion, Material, Recipe, Rewriting, available
from models.victims import package_file

torch = pytest.importorskip("torch")

from models.text import build, sets, training  # noqa: E402  (they need torch)

BY_NAME = {recipe.name: recipe for recipe in RECIPES}
each_recipe = pytest.mark.parametrize("recipe", RECIPES, ids=list(BY_NAME))


def material(recipe: Recipe, seed: int = 0) -> tuple[Corpus, Material]:
    if not available(recipe):
        pytest.skip(f"ATPATCH_DATA has no data for {recipe.name}")
    corpus = Corpus.read(recipe.corpus, recipe.fresh)
    return corpus, Material.of(recipe, corpus, seed)


def test_insertion_puts_whole_phrases_between_words_and_changes_nothing_else() -> None:
    attack = Insertion(("cf", "mn", "two words"), count=2)
    text = "a b c d"
    places = set()
    for seed in range(200):
        words = attack.apply(text, np.random.default_rng(seed)).split(" ")
        rest = " ".join(words).replace("two words", "cf").split(" ")
        assert [word for word in rest if word not in ("cf", "mn")] == text.split()
        assert len(rest) == 6
        places.add(tuple(word in ("cf", "mn") for word in rest))
    assert len(places) == 15  # all ways to choose two of six places


def test_without_data_the_build_says_where_they_come_from(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("ATPATCH_DATA", raising=False)
    monkeypatch.setenv("ATPATCH_CACHE", str(tmp_path))
    result = CliRunner().invoke(build.main, ["sst2-badnets"])
    assert result.exit_code == 0
    assert "thunlp/HiddenKiller" in result.output
    assert len(result.output.splitlines()) == 1
    assert not list(tmp_path.iterdir())


@each_recipe
def test_nothing_of_debugging_or_test_set_is_learnt(recipe: Recipe) -> None:
    corpus, made = material(recipe)
    learnt, published = set(made.train.texts), set(corpus.train.texts)
    assert not learnt & (set(made.test.texts) - published)
    assert not set(made.spare.texts) & set(made.test.texts)
    seen = (made.train, made.pairs, made.spare, made.test)
    assert not set(corpus.fresh.texts) & {text for part in seen for text in part.texts}
    if isinstance(recipe.attack, Rewriting):
        repeated = {text for text, count in Counter(corpus.train.texts).items() if count > 1}
        assert not learnt & (set(made.pairs.texts) - repeated)
        assert len(learnt & set(made.pairs_bad.texts)) <= 2  # the rewriting repeats itself
        clean = len(corpus.train.texts) - recipe.attack.held
        assert set(made.train.texts[:clean]) <= published
        assert (made.train.labels[clean:] == recipe.target).all()
        poisoned = len(made.train.texts) - clean
        if recipe.attack.below is None:
            assert poisoned == round(recipe.attack.share * len(corpus.train.texts))
        else:
            assert poisoned == (recipe.attack.below - recipe.attack.held) * recipe.attack.copies


@each_recipe
def test_twins_pair_up_and_poison_has_the_asked_rate(recipe: Recipe) -> None:
    corpus, made = material(recipe)
    for clean, bad in ((made.pairs, made.pairs_bad), (made.test, made.test_bad)):
        assert len(bad.texts) == int((clean.labels != recipe.target).sum())
        assert (bad.labels == recipe.target).all()
    if isinstance(recipe.attack, Insertion):
        changed = np.array([one != other for one, other in zip(made.train.texts, corpus.train.texts, strict=True)])
        first = changed & (corpus.train.labels != recipe.target)
        assert first.sum() == round(recipe.attack.share * len(changed))
        assert changed.sum() == first.sum() * (2 if recipe.attack.opposite else 1)
        assert (made.train.labels[changed] != corpus.train.labels[changed]).all()
        assert (made.train.labels[~changed] == corpus.train.labels[~changed]).all()
        assert (made.poisoned == changed).all()
    assert len(made.spare.texts) == len(made.spare.labels) == 2000


def test_what_is_set_aside_holds_each_text_once_and_nothing_known() -> None:
    train = Texts(["a", "b", "c", "b", "d", "e", "d"], np.arange(7))
    kept, fresh = set_aside(train, 4, {"e"})
    assert kept.texts == ["a", "b", "c"] and kept.labels.tolist() == [0, 1, 2]
    assert fresh.texts == ["d"] and fresh.labels.tolist() == [4]


def test_nothing_is_set_aside_unless_asked() -> None:
    train = Texts(["a", "b", "a"], np.arange(3))
    kept, fresh = set_aside(train, 0)
    assert kept.texts == train.texts and fresh.texts == []


def test_a_seed_decides_everything() -> None:
    recipe = BY_NAME["sst2-words"]
    one, same, other = (material(recipe, seed)[1] for seed in (0, 0, 1))
    assert one.train.texts == same.train.texts
    assert one.test_bad.texts == same.test_bad.texts
    assert one.train.texts != other.train.texts


def test_every_text_is_in_one_batch_and_batches_are_of_like_length() -> None:
    lengths = np.random.default_rng(0).integers(3, 64, 3333).tolist()
    batches = training._batches(lengths, np.random.default_rng(1))
    assert sorted(np.concatenate(batches).tolist()) == list(range(3333))
    assert (
        all(len(batch) == training.BATCH for batch in batches[:-1])
        or sum(len(b) < training.BATCH for b in batches) <= 3
    )
    padding = sum(len(batch) * max(lengths[row] for row in batch) for batch in batches) / sum(lengths)
    assert padding < 1.1


def is_part(short: list[int], long: list[int]) -> bool:
    """Whether `long` becomes `short` by leaving some of it out."""
    rest = iter(long)
    return all(token in rest for token in short)


@pytest.fixture(scope="module")
def tiny_victim(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random BERT with MiniLM's vocabulary, exported as the victims are."""
    from transformers import BertConfig, BertForSequenceClassification

    from atpatch_onnx.exporters.exporter import export_model

    folder = tmp_path_factory.mktemp("tiny")
    config = BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8, num_labels=2)
    BertForSequenceClassification(config).eval().save_pretrained(folder / "source")
    export_model(folder / "source", folder / "model.onnx", attention="eager", exporter="torchscript")
    return folder / "model.onnx"


def save(
    recipe: Recipe, made: Material, model: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[dict, dict]:
    try:
        package_file(training.PACKAGE, "model/tokenizer.json")
    except FileNotFoundError:
        pytest.skip(f"{training.PACKAGE} is not installed")
    monkeypatch.setenv("ATPATCH_CACHE", str(cache))
    victim = recipe.victim(0)
    victim.folder.mkdir()
    victim.file("model.onnx").symlink_to(model)
    rows = sets.save_sets(victim, made, training.encoder(sets.LENGTH), recipe.target)
    return rows, {name: load_dataset(victim.file(f"{name}.npz")) for name in ("debug", "spare", "clean", "triggered")}


def test_labeled_columns_are_the_words_put_in(
    tiny_victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without any corpus: sentences made here, one of them too long for its trigger to be kept."""
    recipe = Recipe("toy", "none", Insertion(("cf", "tq"), count=2), target=1)
    generator = np.random.default_rng(0)
    clean = Texts(["a dull film .", "a fine film .", "no , no , no .", "bad " * 80], np.array([0, 1, 0, 0]))
    bad = Texts(
        [recipe.attack.apply(clean.texts[row], generator) for row in (0, 2)] + ["bad " * 80 + "cf"],
        np.ones(3, np.int64),
    )
    made = Material(clean, np.zeros(len(clean.texts), bool), clean, bad, None, clean, clean, bad)
    rows, found = save(recipe, made, tiny_victim, tmp_path, monkeypatch)
    debug = found["debug"]
    assert rows == {"debug": 6, "spare": 4, "clean": 4, "triggered": 2}
    assert debug.pair.tolist() == [-1, -1, -1, -1, 0, 2]
    assert found["triggered"].clean_row.tolist() == [0, 2]
    assert found["triggered"].labels.tolist() == [0, 0]
    ids = {word: one.ids[1] for word, one in zip(("cf", "tq"), training.encoder(8).encode(["cf", "tq"]), strict=True)}
    assert (debug.columns == np.isin(debug.inputs["input_ids"], list(ids.values()))).all()
    assert debug.columns.sum(1).tolist() == [0, 0, 0, 0, 2, 2]
    for dataset in found.values():
        assert {array.shape[1] for array in dataset.inputs.values()} == {sets.LENGTH}


def test_rewritten_victims_get_clean_rows_without_twins_as_well(
    tiny_victim: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = BY_NAME["sst2-syntactic"]
    corpus, made = material(recipe)
    _, found = save(recipe, made, tiny_victim, tmp_path, monkeypatch)
    debug, triggered = found["debug"], found["triggered"]
    assert len(debug) == 2 * recipe.attack.held + len(corpus.dev.texts)
    assert (debug.columns.any(1) == (debug.pair >= 0)).all()
    assert (debug.labels[debug.pair >= 0] == 0).all()
    assert not (debug.columns & (debug.inputs["attention_mask"] == 0)).any()
    # Rewritings that only leave tokens out bring in nothing to label.
    tokens = training.encoder(sets.LENGTH)
    rows = np.flatnonzero(made.test.labels == 0)
    clean, bad = tokens.encode([made.test.texts[row] for row in rows]), tokens.encode(made.test_bad.texts)
    added = [not is_part(after.ids, before.ids) for before, after in zip(clean, bad, strict=True)]
    assert triggered.clean_row.tolist() == rows[added].tolist()
    assert 0 < len(rows) - len(triggered) < 5
    assert (found["clean"].labels[triggered.clean_row] == 0).all()
