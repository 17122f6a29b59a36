"""Tables of what the hotfix is compared with: other defenses, parts taken out, and fits without labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from .cells import NAMES, Evidence, Row, Run, Table, each, share_of
from .goals import steps_of

__all__ = ["ablations", "peers", "unlabeled"]

PEERS = {"strip": "STRIP, N = 5", "dan": "DAN", "fine_pruning": "Fine-Pruning", "head_mask": "static head mask"}


def peers(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    """Other defenses next to the hotfix, a table a setting."""
    for name, measured in each(evidence, "peers"):
        fits, timed = steps_of(evidence, name, "fit")[:1], steps_of(evidence, name, "latency")[:1]
        fault = "uf" if "uf" in fits[0]["patched"] else "asr_star"
        own = " / ".join(
            f"{timed[0][kind]['ratio']:.2f}" for kind in ("clean", "flagged") if timed and kind in timed[0]
        )
        rows: list[Row] = [
            ("original", share_of(fits, "original", "accuracy"), share_of(fits, "original", fault), "–", "1"),
            ("**hotfix**", share_of(fits, "patched", "accuracy"), share_of(fits, "patched", fault), "–", own or "–"),
        ]
        for peer, title in PEERS.items():
            if peer in measured[0]:
                rows += _peer(title, measured[0][peer], fault)
        yield name, Table(("defense", "accuracy", NAMES[fault], "clean requests refused", "cost ×"), rows)


def _peer(title: str, figures: Run, fault: str) -> Iterator[Row]:
    cost = f"{figures['latency']['ratio']:.2f}" if "latency" in figures else "1"
    for rate, found in figures.get("rates", {}).items():
        cells = (share_of([found], key) for key in ("accuracy", fault, "clean_flagged"))
        yield (f"{title}, bar at {100 * float(rate):g} %", *cells, cost)
    if "pruned" in figures:
        cut = f"{title}, {100 * figures['share']:.0f} % of neurons cut"
        yield (cut, share_of([figures["pruned"]], "accuracy"), share_of([figures["pruned"]], fault), "–", "1")
        title = f"{cut}, then tuned"
    if "accuracy" in figures:
        yield (title, share_of([figures], "accuracy"), share_of([figures], fault), "–", cost)
    elif "skipped" in figures:
        yield (f"{title}: {figures['skipped']}", "–", "–", "–", "–")


def ablations(evidence: Evidence) -> Iterator[tuple[str, Table]]:
    """The hotfix with parts taken out, a table a setting."""
    for name, runs in each(evidence, "ablations"):
        tried = {word: found for word, found in runs[0].items() if isinstance(found, Mapping)}
        fault = "uf" if any("uf" in found.get("patched", {}) for found in tried.values()) else "asr_star"
        rows: list[Row] = []
        for word, found in tried.items():
            if "skipped" in found:
                rows.append((f"{word}: {found['skipped']}", "–", "–", "–", "–"))
                continue
            cells = (share_of([found["patched"]], key) for key in ("accuracy", fault, "clean_changed"))
            rows.append((word, *cells, share_of([found], "clean_flagged")))
        yield name, Table(("ablation", "accuracy", NAMES[fault], "clean predictions changed", "clean flagged"), rows)


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
    return Table(
        ("setting", "known", "seeds", "accuracy", NAMES["asr_star"], "clean flagged", "triggered flagged"), rows
    )
