"""Tables of what the hotfix is compared with: other defenses, parts taken out, and fits without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .cells import Evidence, Row, Table, each, share_of
from .defenses import CEILING, LABELED, Comparison, alarms, comparisons, defenses, measured as defenses_of, raw_asr
from .measures import NAMES, Run, fault_of, fits
from .verdicts import Verdict

__all__ = ["ablations", "best_peers", "peers", "unlabeled"]

RAW = {"asr_star": ("asr", "asr_star"), "uf": ("uf",)}
"""Measure → what is shown of it: never ASR* without ASR."""


def peers(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    """Other defenses next to the hotfix, a table a setting."""
    fitted, twins = fits(evidence), {(run["setting"], run["seed"]): run["victim"] for run in evidence["runs"]}
    for name, (seed, measured) in defenses_of(evidence).items():
        if seed not in fitted.get(name, {}):
            continue
        fit = fitted[name][seed]
        timed = fits(evidence, step="latency").get(name, {}).get(seed, {})
        refusing = fits(evidence, step="alarm").get(name, {}).get(seed, {})
        shown = ("accuracy", *RAW[fault_of(fit["patched"])])
        own = " / ".join(f"{timed[kind]['ratio']:.2f}" for kind in ("clean", "flagged") if kind in timed)

        def row(title: str, figures: Run, flagged: Run, cost: str, needs: str, keys: Row = shown) -> Row:
            return (
                title,
                *(share_of([figures], key) for key in keys),
                share_of([flagged], "clean_flagged"),
                cost,
                needs,
            )

        rows = [
            row("original", fit["original"], {}, "1", "–"),
            row("**hotfix**", fit["patched"], {} if "uf" in shown else fit, own or "–", LABELED),
            *(
                row(one.title, one.figures, one.figures, one.cost, one.needs)
                for one in (*alarms(refusing), *defenses(measured))
            ),
        ]
        if twin := twins[name, seed].get("twin"):
            rows.append(row(CEILING[0], twin, {}, "1", CEILING[1]))
        head = (
            "defense",
            "accuracy",
            *(NAMES[key] for key in shown[1:]),
            "clean requests refused or changed",
            "cost ×",
        )
        yield name, Table((*head, "needs to know"), rows)


def best_peers(evidence: Evidence) -> Table:
    """The hotfix and the best other defense of every setting, at its own clean cost and at any."""
    rows = {one.setting: _compared(one) for one in comparisons(evidence)}
    anyhow = {one.setting: _compared(one) for one in comparisons(evidence, any_cost=True)}
    head = (
        "setting",
        "measure",
        "hotfix",
        "best other defense at the hotfix's clean cost",
        "the hotfix leaves",
        "best other defense at any cost",
        "the hotfix leaves",
    )
    none = ("none", "–")
    return Table(
        head,
        [(name, *found[:2], *(rows[name][2:] if name in rows else none), *found[2:]) for name, found in anyhow.items()],
    )


def _compared(one: Comparison) -> Row:
    hotfix, peer = (
        f"{share_of([figures], one.fault)} %{raw_asr(figures)}" for figures in (one.hotfix, one.peer.figures)
    )
    refused = f", {share_of([one.peer.figures], 'clean_flagged')} % refused" if one.peer.rate else ""
    told = f"{one.peer.title}: {peer}; {one.lost:.1f} points less accurate{refused}"
    words = {Verdict.MET: "**less**", Verdict.NOT_MET: "**more**"}
    return (NAMES[one.fault], hotfix, told, words.get(one.verdict, "not told apart"))


def ablations(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    """The hotfix with parts taken out, a table a setting."""
    for name, runs in each(evidence, "ablations"):
        tried = {word: found for word, found in runs[0].items() if isinstance(found, Mapping)}
        unfair = any("uf" in found.get("patched", {}) for found in tried.values())
        shown = RAW["uf" if unfair else "asr_star"]
        rows: list[Row] = []
        for word, found in tried.items():
            if "skipped" in found:
                rows.append((f"{word}: {found['skipped']}", *["–"] * (3 + len(shown))))
                continue
            cells = (share_of([found["patched"]], key) for key in ("accuracy", *shown, "clean_changed"))
            rows.append((word, *cells, share_of([found], "clean_flagged")))
        head = ("ablation", "accuracy", *(NAMES[key] for key in shown), "clean predictions changed", "clean flagged")
        yield name, Table(head, rows)


def unlabeled(evidence: Evidence) -> Table:
    """Hotfixes fitted without knowing the trigger, or without any data."""
    rows = []

    def add(name: str, known: str, found: Sequence[Run]) -> None:
        found = [one for one in found if "patched" in one]
        if found:
            cells = (
                share_of(found, *path)
                for path in (
                    ("patched", "accuracy"),
                    ("patched", "asr"),
                    ("patched", "asr_star"),
                    ("clean_flagged",),
                    ("attacked_flagged",),
                )
            )
            rows.append((name, known, str(len(found)), *cells))

    for name, runs in each(evidence, "statistic"):
        for passes in ("one", "two"):
            add(name, f"no data (statistic), {passes} pass{'es' * (passes == 'two')}", [run[passes] for run in runs])
    for name, runs in each(evidence, "oneclass"):
        add(name, "clean data only (oneclass), two passes", runs)
    for name, runs in each(evidence, "inversion"):
        run = runs[0]
        named = ", ".join(map(str, run["towards"])) or "none"
        add(
            name,
            f"inverted trigger: class {named}, really {run['target']}; {run['seconds']:.0f} s",
            [run.get("hotfix", {})],
        )
    head = (
        "setting",
        "known",
        "seeds",
        "accuracy",
        NAMES["asr"],
        NAMES["asr_star"],
        "clean flagged",
        "triggered flagged",
    )
    return Table(head, rows)
