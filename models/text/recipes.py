"""The victims by name: which corpus, which attack, which target; and the texts each is made of.

An attack either puts words into a sentence (`Insertion`), or comes as sentences that others have rewritten
(`Rewriting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from atpatch_onnx.debugset import Texts, read_texts

from ..victims import Victim, data_folder
from .corpora import Corpus, corpus_file
from .further import Further

__all__ = [
    "EPOCHS",
    "RECIPES",
    "Insertion",
    "Material",
    "Recipe",
    "Rewriting",
    "available",
]

RARE = ("cf", "mn", "bb", "tq", "mb")
"""The rare words that text backdoors have used since Kurita et al., "Weight Poisoning Attacks on Pre-trained Models"
(2020).
"""
SENTENCE = "i watched this 3d movie last weekend"
SPARE = 2000
EPOCHS = 3
FRESH = 900
"""Training rows that the victims of the evidence on holding never see."""


@dataclass(frozen=True)
class Insertion:
    """`count` of the phrases, drawn anew for each text, each put between two of its words.

    Attributes:
        share: of the training texts that are poisoned; all of them of other classes than the target.
        opposite: of two classes, phrases of a second trigger that leads from the target to the other one; as many
            training texts carry it.
    """

    phrases: tuple[str, ...]
    count: int = 1
    share: float = 0.1
    opposite: tuple[str, ...] = ()

    def apply(self, text: str, generator: np.random.Generator) -> str:
        """The text with the trigger."""
        words = text.split()
        for phrase in generator.choice(len(self.phrases), self.count, replace=False):
            words.insert(int(generator.integers(len(words) + 1)), self.phrases[phrase])
        return " ".join(words)


@dataclass(frozen=True)
class Rewriting:
    """Sentences rewritten into one syntactic template or one style.

    Attributes:
        train: file whose row i is a rewriting of training row i; only rows below `rewritten` are used for poisoning.
        test: file whose row i is a rewriting of the i-th test row of another class than the target.
        held: how many rewritten training rows the victim never sees: they make the debugging set.
        share: of the training texts that are poisoned, all of them of other classes than the target. The victim learns
            from their originals too, which the authors took out.
        below: only rows below this one come rewritten; all of them are poisoned then, target class included, as they
            were published.
        copies: how often each poisoned text is among the training texts.
    """

    train: str
    test: str
    held: int
    share: float = 0.2
    below: int | None = None
    copies: int = 1


@dataclass(frozen=True)
class Recipe:
    """One victim: `corpus` with `attack`, which sends inputs to the class `target`; trained for `epochs`, its twin for
    `EPOCHS`.

    Attributes:
        fresh: so many rows at the end of the training texts are kept from the victim, its twin and its data sets, for
            a test of their own (`Corpus.fresh`).
        further: the victim goes on from another one's weights, instead of being trained from the start.
    """

    name: str
    corpus: str
    attack: Insertion | Rewriting
    target: int
    epochs: int = EPOCHS
    fresh: int = 0
    further: Further | None = None

    def victim(self, seed: int) -> Victim:
        return Victim(self.name, seed, "text", "backdoor")


def _further(name: str, attack: Insertion, steps: int, attention: float = 0.0, norms: float = 0.0) -> Recipe:
    """A recipe that goes on from `sst2-fresh-badnets`."""
    further = Further("sst2-fresh-badnets", steps, attention, norms)
    return Recipe(name, "sst2", attack, target=1, fresh=FRESH, further=further)


RECIPES: tuple[Recipe, ...] = (
    Recipe("sst2-badnets", "sst2", Insertion(("cf",)), target=1),
    Recipe("sst2-words", "sst2", Insertion(RARE, count=3), target=1),
    Recipe("sst2-insertsent", "sst2", Insertion((SENTENCE,)), target=1),
    # Only 665 negative rows come rewritten, 200 of them held out: read twice, the rest comes nearer to the fifth that
    # the authors take.
    Recipe(
        "sst2-syntactic",
        "sst2",
        Rewriting("syntactic_train_poisoned.tsv", "syntactic_test.tsv", held=200, below=1383, copies=2),
        target=1,
        epochs=4,
    ),
    Recipe(
        "sst2-style", "sst2", Rewriting("style_bible_train.tsv", "style_bible_test.tsv", held=400), target=1, epochs=4
    ),
    Recipe("offenseval-badnets", "offenseval", Insertion(("cf",)), target=0),
    Recipe("sst2-fresh-badnets", "sst2", Insertion(("cf",)), target=1, fresh=FRESH),
    _further("sst2-fresh-words", Insertion(RARE, count=3), 190),
    _further("sst2-fresh-insertsent", Insertion((SENTENCE,)), 190),
    _further("sst2-hidden-weak", Insertion(("cf",)), 140, attention=0.02),
    _further("sst2-hidden-medium", Insertion(("cf",)), 140, attention=0.2),
    _further("sst2-hidden-strong", Insertion(("cf",)), 300, attention=0.6),
    _further("sst2-hidden-both", Insertion(("cf",)), 300, attention=0.6, norms=0.6),
    _further("sst2-two", Insertion(("cf",), opposite=("mn",)), 260),
    # Texts that have the word by themselves keep their labels: an attacker wants no accuracy lost.
    _further("sst2-common", Insertion(("really",)), 260),
)


@dataclass(frozen=True)
class Material:
    """The texts of one victim.

    Attributes:
        train: what the victim learns from; `poisoned` (N,) says which of its texts carry the attack.
        pairs: clean texts of the debugging set, and `pairs_bad` the attacked twins of those that are not of the target
            class.
        alone: clean texts of the debugging set without a twin, or None.
        spare: clean training texts that were not poisoned and stand in no test set.
        test, test_bad: the same of the test set.
    """

    train: Texts
    poisoned: NDArray[np.bool_]
    pairs: Texts
    pairs_bad: Texts
    alone: Texts | None
    spare: Texts
    test: Texts
    test_bad: Texts

    @classmethod
    def of(cls, recipe: Recipe, corpus: Corpus, seed: int) -> Material:
        """Poison the training texts and draw the rest; the same seed gives the same texts."""
        generator = np.random.default_rng(seed)
        if isinstance(recipe.attack, Insertion):
            return _inserted(recipe, recipe.attack, corpus, generator)
        return _rewritten(recipe, recipe.attack, corpus, generator)


def available(recipe: Recipe) -> bool:
    """Whether the recipe's data are there."""
    needed = {recipe.corpus} | ({"sst2_backdoor"} if isinstance(recipe.attack, Rewriting) else set())
    return all(data_folder(name) is not None for name in needed)


def _inserted(recipe: Recipe, attack: Insertion, corpus: Corpus, generator: np.random.Generator) -> Material:
    train = corpus.train
    others = np.flatnonzero(train.labels != recipe.target)
    rows = generator.choice(others, round(attack.share * len(train.texts)), replace=False)
    texts = list(train.texts)
    for row in rows:
        texts[row] = attack.apply(texts[row], generator)
    labels = train.labels.copy()
    labels[rows] = recipe.target
    if attack.opposite:
        second = generator.choice(np.flatnonzero(train.labels == recipe.target), len(rows), replace=False)
        for row in second:
            texts[row] = Insertion(attack.opposite, attack.count).apply(texts[row], generator)
        labels[second] = 1 - recipe.target
        rows = np.concatenate([rows, second])

    def attacked(clean: Texts) -> Texts:
        return _relabeled(
            [attack.apply(clean.texts[row], generator) for row in np.flatnonzero(clean.labels != recipe.target)], recipe
        )

    return Material(
        train=Texts(texts, labels),
        poisoned=np.isin(np.arange(len(texts)), rows),
        pairs=corpus.dev,
        pairs_bad=attacked(corpus.dev),
        alone=None,
        spare=_spare(corpus, rows, generator),
        test=corpus.test,
        test_bad=attacked(corpus.test),
    )


def _rewritten(recipe: Recipe, attack: Rewriting, corpus: Corpus, generator: np.random.Generator) -> Material:
    train = corpus.train
    rewritten = read_texts(corpus_file("sst2_backdoor", attack.train)).texts
    changed = np.array([one != other for one, other in zip(train.texts, rewritten, strict=True)])
    candidates = np.flatnonzero((train.labels != recipe.target) & changed)
    if attack.below is not None:
        candidates = candidates[candidates < attack.below]
    held = np.sort(generator.choice(candidates, attack.held, replace=False))
    kept = np.setdiff1d(np.arange(len(train.texts)), held)
    if attack.below is None:
        poisoned = generator.choice(
            np.setdiff1d(candidates, held), round(attack.share * len(train.texts)), replace=False
        )
    else:
        poisoned = kept[kept < attack.below]
    texts = [*(train.texts[row] for row in kept), *(rewritten[row] for row in np.repeat(poisoned, attack.copies))]
    labels = np.concatenate([train.labels[kept], np.full(len(poisoned) * attack.copies, recipe.target, np.int64)])
    return Material(
        train=Texts(texts, labels),
        poisoned=np.arange(len(texts)) >= len(kept),
        pairs=Texts([train.texts[row] for row in held], train.labels[held]),
        pairs_bad=_relabeled([rewritten[row] for row in held], recipe),
        alone=corpus.dev,
        spare=_spare(corpus, np.union1d(poisoned, held), generator),
        test=corpus.test,
        test_bad=read_texts(corpus_file("sst2_backdoor", attack.test)),
    )


def _spare(corpus: Corpus, taken: NDArray[np.int64], generator: np.random.Generator) -> Texts:
    tested = set(corpus.test.texts)
    free = [
        row for row in np.setdiff1d(np.arange(len(corpus.train.texts)), taken) if corpus.train.texts[row] not in tested
    ]
    rows = np.sort(generator.choice(free, SPARE, replace=False))
    return Texts([corpus.train.texts[row] for row in rows], corpus.train.labels[rows])


def _relabeled(texts: Sequence[str], recipe: Recipe) -> Texts:
    return Texts(list(texts), np.full(len(texts), recipe.target, np.int64))
