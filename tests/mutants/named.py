"""Changes that once went unnoticed; each must be killed."""

from __future__ import annotations

from .operators import Mutant, named

__all__ = ["NAMED"]

_REDISTRIBUTION = "rewriters/subgraphs/redistribution.py"


NAMED: list[Mutant] = [
    named(_REDISTRIBUTION, "FLOOR = 1e-7", "FLOOR = 1e-4"),
    named(_REDISTRIBUTION, "FLOOR = 1e-7", "FLOOR = 1e-9"),
    # Rule 5: rows that see only flagged columns stay as they are.
    named("rewriters/subgraphs/sides.py", "if rows.lost is not None:", "if False:"),
    named(
        _REDISTRIBUTION,
        'lost = e.op("Less", seen.unflagged, half)',
        'lost = e.op("Less", seen.unflagged, e.constant(0.0))',
    ),
    # Rule 3: the benign share of several columns never exceeds the row.
    named(_REDISTRIBUTION, "if most > 1.0:", "if False:"),
    # Padding is neither flagged nor given attention, also where rows see different columns.
    named(_REDISTRIBUTION, 'mask = e.op("And", context.valid, mask)', "pass"),
    named(_REDISTRIBUTION, 'e.op("Not", mask) if context.valid is None else', 'e.op("Not", mask) if True else'),
    # A mask that opens in one reading and shuts in another is no padding mask.
    named("rewriters/finding/masks.py", "return verdicts == {True}", "return True in verdicts"),
    # A map of size 1 along an axis is not the map that another operand broadcasts it to.
    named("rewriters/finding/axes.py", "other == dim or (dim != 1 and", "other == dim or (True and"),
    # A unit is one draw, however often it comes back.
    named(
        "atpatch_onnx/ab/tally.py", "entry[1] += count\n        return False", "entry[1] += count\n        return True"
    ),
    # A threshold lies one float32 step above the logit it was read from.
    named(
        "atpatch_onnx/fitting/calibration.py", "float(np.nextafter(probability, np.float32(2.0)))", "float(probability)"
    ),
]
