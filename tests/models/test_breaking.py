"""The table of which attack breaks which kind of hotfix, and what it costs the attacker."""

from __future__ import annotations

from typing import Any

import pytest

from atpatch_onnx.statistics.proportions import Share
from models.evidence.holding.adaptive import CLEAN, KINDS, KNOWN, NOTHING
from models.evidence.holding.breaking import ATTACKS, breaking_table, cheapest
from models.evidence.holding.page import render
from models.evidence.holding.rows import ROWS


def share(hits: int) -> dict[str, Any]:
    return Share(hits, 1000).to_json()


def met(left: int, accuracy: int = 900) -> dict[str, Any]:
    attack = {"original": share(1000), "asr_star": share(left), "asr": share(left), "floor": share(0)}
    clean = {"points": 0.0, "flagged": share(5), "changed": share(0)}
    return {
        "hotfix": {"detector": "profile"},
        "clean": {**clean, "original": share(accuracy), "accuracy": share(accuracy)},
        "attacks": {"word": {**attack, "flagged": share(1000 - left)}},
    }


REFUSED = {"refused": "ATP055", "why": "error ATP055: no site tells them apart", "left": {"word": share(1000)}}


def runs(**kinds: Any) -> list[dict[str, Any]]:
    return [{"seed": 0, "figures": {name.replace("_", " "): one for name, one in kinds.items()}, "commands": []}]


def test_every_cell_is_of_a_row_and_every_attack_is_named_once() -> None:
    assert all(cell.row in ROWS for attack in ATTACKS for cell in attack.cells.values())
    assert all(kind in KINDS for attack in ATTACKS for kind in attack.cells)
    assert len({attack.title for attack in ATTACKS}) == len(ATTACKS)


@pytest.mark.parametrize(
    ("left", "shown"), [(20, "2.00 (1.23 to 3.07) left"), (520, "52.00 ("), (600, "**60.00 ("), (530, "53.00 (")]
)
def test_an_attack_breaks_where_the_whole_interval_lies_above_one_half(left: int, shown: str) -> None:
    table = breaking_table({"common-word": runs(trigger_known=met(left), clean_rows=met(0), no_data=REFUSED)})
    (line,) = (line for line in table.splitlines() if line.startswith("| an ordinary word"))
    cells = line.split(" | ")
    assert cells[4].startswith(shown) and cells[2] == "260"
    assert "**no hotfix (ATP055): 100.00 (" in cells[6]


def test_what_was_not_measured_says_so() -> None:
    (line,) = (line for line in breaking_table({}).splitlines() if line.startswith("| attention hidden, strong"))
    assert line.split(" | ")[1:2] + line.split(" | ")[3:] == ["–", "not measured", "–", "not measured", "– |"]


def test_a_model_that_only_knows_the_target_is_no_victim() -> None:
    figures = met(0)
    figures["attacks"]["word"]["original"] = Share(0, 0).to_json()
    table = breaking_table({"hidden-strong": [{"seed": 0, "figures": figures, "commands": []}]})
    assert "| no victim: it answers everything with the target | – |" in table


def test_the_cheapest_takes_fewest_steps_then_least_accuracy() -> None:
    kept = {
        "no-data-clean-model": [{"seed": 0, "figures": {"clean": met(0, accuracy=950)["clean"]}, "commands": []}],
        "common-word": runs(trigger_known=met(900), clean_rows=met(0), no_data=met(900)),
        "no-data-hidden": [{"seed": 0, "figures": met(800), "commands": []}],
        "no-data-words": [{"seed": 0, "figures": met(700, accuracy=930), "commands": []}],
        "no-data-sentence": [{"seed": 0, "figures": met(700, accuracy=940), "commands": []}],
    }
    known, clean, nothing = (line.replace("\n  ", " ") for line in cheapest(kept)[2:].split("\n* "))
    assert known.startswith(f"**{KNOWN}** (`profile`): broken by 1 of 1 attacks. The cheapest is *an ordinary word*: ")
    assert "It costs 260 further steps; points of accuracy: 5.00 (" in known
    assert clean == f"**{CLEAN}** (`profile`): broken by 0 of 1 attacks."
    assert nothing.startswith(f"**{NOTHING}** (`profile`): broken by 4 of 4 attacks. The cheapest is *a sentence*: ")
    assert "It costs 0 further steps; points of accuracy: 1.00 (" in nothing


def test_a_page_says_why_there_is_no_hotfix() -> None:
    page = render({"common-word": runs(trigger_known=REFUSED, clean_rows=met(0), no_data=met(0))})
    assert "### trigger known\n\nNo hotfix: error ATP055: no site tells them apart" in page
