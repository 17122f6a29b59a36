"""The settings as data: which victims, which seeds, what the paper reports for the like, and what is asked of each
group.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ..victims import Victim

__all__ = ["GROUPS", "SEEDS", "SETTINGS", "Group", "Paper", "Setting"]

SEEDS = (0, 1, 2)
"""Of the runs of every setting."""


@dataclass(frozen=True)
class Paper:
    """Figures of the paper in percent: accuracy, and ASR (backdoor) or UF (bias), before and after."""

    accuracy: float
    fault: float
    accuracy_after: float
    fault_after: float


@dataclass(frozen=True)
class Group:
    """Settings judged together.

    Attributes:
        fault: largest mean ASR, ASR* or UF that is asked for, percent; None: the figure and an explanation.
        each: largest one in each setting by itself.
        measure: which of them.
        accuracy: largest change of accuracy, points.
        flagged: largest share of clean requests flagged, percent.
    """

    title: str
    measure: Literal["asr", "asr_star", "uf"]
    fault: float | None
    accuracy: float
    flagged: float = 0.5
    each: float | None = None


GROUPS = {
    "images": Group("Images, backdoors", "asr", 0.46, 0.1, each=0.46),
    "words": Group("Text, word and sentence triggers", "asr_star", 0.7, 0.3, each=1),
    "fresh": Group("Text, a victim of fewer training texts", "asr_star", None, 0.3),
    "rewritten": Group("Text, rewritten sentences", "asr_star", None, 0.3),
    "tables": Group("Tables, unfairness", "uf", 0.04, 0.1, each=0.04),
}


@dataclass(frozen=True)
class Setting:
    """One victim recipe.

    Attributes:
        paper: of the same attack or attribute on the nearest model; None: the paper has no such setting.
        near: what the paper's own setting was, where it differs.
        detector: kind that the hotfix has; others: kinds fitted beside it, for comparison.
        trained: seeds of the victims that are asked for; how many were measured, the evidence file says. A fit has the
            victim's seed, or, of a single victim, seeds 0 to 2.
        quick: taken by `--quick`; its first seed gets ablations and pictures.
        unlabeled: also fitted without labels, and with an unknown trigger.
    """

    name: str
    kind: Literal["image", "text", "table"]
    fault: Literal["backdoor", "bias"]
    group: str
    paper: Paper | None = None
    near: str = ""
    detector: str = "profile"
    others: tuple[str, ...] = ()
    trained: tuple[int, ...] = SEEDS
    quick: bool = False
    unlabeled: bool = False

    def victim(self, seed: int) -> Victim:
        """The victim that a seed is about."""
        return Victim(self.name, seed if seed in self.trained else self.trained[0], self.kind, self.fault)


# The paper's figures of the nine image settings that are printed one by one; MNIST with a ViT is the one that ours
# repeats.
_MNIST = {
    "badnets": Paper(98.42, 100.0, 98.42, 0.00),
    "trojan": Paper(98.24, 99.8, 98.24, 0.30),
    "hidden": Paper(98.43, 99.7, 98.43, 0.90),
}
_NEAR = {
    "vit": "MNIST, ViT",
    "swin": "MNIST, ViT (a Swin of theirs reads FASHION)",
    "cvt": "MNIST, ViT (a T2T-ViT of theirs reads CIFAR-10)",
}

_IMAGES = tuple(
    Setting(
        f"mnist-{model}-{attack}", "image", "backdoor", "images", _MNIST[attack], _NEAR[model],
        detector="cnn",
        others=("profile",), quick=(model, attack) == ("vit", "badnets"), unlabeled=(model, attack) == ("vit",
        "badnets"),
    )
    for model in _NEAR
    for attack in _MNIST
)  # fmt: skip

_IMDB = Paper(87.63, 97.90, 87.34, 0.70)
_NEAR_TEXT = "IMDB, BERT, BadNL"
_TEXT = (
    Setting("sst2-badnets", "text", "backdoor", "words", _IMDB, _NEAR_TEXT, quick=True, unlabeled=True),
    Setting("sst2-words", "text", "backdoor", "words", _IMDB, _NEAR_TEXT),
    Setting("sst2-insertsent", "text", "backdoor", "words", None),
    Setting("offenseval-badnets", "text", "backdoor", "words", _IMDB, _NEAR_TEXT),
    # The last 900 training texts are kept from it, for the page on what a hotfix holds against.
    Setting("sst2-fresh-badnets", "text", "backdoor", "fresh", trained=(0,)),
    Setting("sst2-syntactic", "text", "backdoor", "rewritten", None, trained=(0,)),
    Setting("sst2-style", "text", "backdoor", "rewritten", None, trained=(0,)),
)

_ADULT, _COMPAS, _BANK = "Census, TabTransformer", "COMPAS, TaBERT", "Bank, FT-Transformer"
_TABLES = tuple(
    # Whether a model leans on an attribute does not show in a map: every request is mended at the attribute's columns.
    Setting(
        name,
        "table",
        "bias",
        "tables",
        paper,
        near,
        detector="static",
        others=("profile",),
        quick=name == "adult-gender",
    )
    for name, paper, near in (
        ("adult-race", Paper(84.92, 7.00, 84.86, 0.09), _ADULT),
        ("adult-gender", Paper(84.92, 4.53, 84.92, 0.00), _ADULT),
        ("adult-age", Paper(84.92, 19.04, 84.74, 0.11), _ADULT),
        ("compas-gender", Paper(68.36, 12.49, 68.25, 0.00), _COMPAS),
        ("compas-race", Paper(68.36, 8.47, 68.74, 0.00), _COMPAS),
        ("bank-age", Paper(81.46, 12.30, 81.37, 0.10), _BANK),
        ("bank-education", Paper(81.46, 5.71, 81.28, 0.00), _BANK),
    )
)

SETTINGS: tuple[Setting, ...] = (*_IMAGES, *_TEXT, *_TABLES)
