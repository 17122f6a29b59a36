"""Changes that once went unnoticed; each must be killed."""

from __future__ import annotations

from .operators import Mutant, named

__all__ = ["NAMED"]

_NEW_TOKENS = "rewriters/editing/new_tokens.py"
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
    named(_REDISTRIBUTION, "if pair.largest_share > 1.0:", "if False:"),
    # Padding is neither flagged nor given attention, also where rows see different columns.
    named(_REDISTRIBUTION, "real = mask if valid is None else once", "real = mask if True else once"),
    named(
        _REDISTRIBUTION,
        'partial(e.op, "Not", real) if valid is None else',
        'partial(e.op, "Not", real) if True else',
    ),
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
    # Healing: padding heals nobody, the sink is there only where the sequence begins in this call, and of flagged
    # tokens in a row only the first one gets its neighbor's row.
    named(_NEW_TOKENS, 'healthy if valid is None else e.op("And", healthy, valid)', "healthy"),
    named(_NEW_TOKENS, 'further = e.op("And", further, e.op("GatherElements", first, origin, axis=1))', "pass"),
    named(_NEW_TOKENS, 'e.op("Where", further, origin, source, role="source")', "source"),
    # Where tokens leave their call, the first one fills the gap, and padding stays.
    named(_NEW_TOKENS, 'e.op("Max", rank, total)', "rank"),
    named(_NEW_TOKENS, "numbers if valid is None else _padding_last(e, valid)", "numbers"),
    # A step of generation judges nothing.
    named(
        "rewriters/editing/probe.py",
        'e.constant(1, np.int64), role="several_tokens")',
        'e.constant(0, np.int64), role="several_tokens")',
    ),
    # The early part begins with the tokens, not with their keys and values.
    named(
        "rewriters/editing/early_part.py",
        "depending, found = {*places.embeddings}, []",
        "depending, found = {place.value for place in places.places}, []",
    ),
    # A column that no site sees is not flagged; one that a site does not see has no score there.
    named("rewriters/editing/joining.py", "if len(seen) == len(scores):", "if False:"),
    named(
        "rewriters/subgraphs/site.py",
        'score = e.op("Where", seen, score, e.constant(0.0), role="seen_score")',
        "pass",
    ),
    # The answer row is the last valid one; the first valid column, a sink, is not judged by it.
    named(
        "rewriters/lowering/answer_row.py",
        'return e.op("Where", e.op("Less", row, first), first, row, role="answer_rows")',
        'return e.op("Sub", columns, e.constant([1], np.int64))',
    ),
    named("rewriters/lowering/answer_row.py", 'e.op("ArgMax", count, axis=1', 'e.op("ArgMin", count, axis=1'),
    named(
        "rewriters/subgraphs/detectors/answer_row.py",
        'e.constant(1.5)), role="judged")',
        'e.constant(0.5)), role="judged")',
    ),
    # Rows of padding see nothing, and of the others the highest entry counts.
    named(
        "rewriters/subgraphs/detectors/answer_row.py",
        'e.op("Mul", e.op("Mul", sees, e.unsqueeze(valid, 1)), e.unsqueeze(of_rows, 2))',
        'e.op("Mul", sees, e.unsqueeze(valid, 1))',
    ),
    named("rewriters/subgraphs/detectors/answer_row.py", 'e.reduce("Max", relative', 'e.reduce("Min", relative'),
    # Of two tries the first one that changes the prediction is taken, and only flagged rows have a second one.
    named("rewriters/editing/second_pass.py", "stacked(e, columns, more)", "stacked(e, more, columns)"),
    named(
        "rewriters/editing/wider_run.py",
        'answer = e.op("ArgMax", changed, axis=0, keepdims=0, role="answer")',
        'answer = e.op("ArgMax", changed, axis=0, keepdims=0, select_last_index=1, role="answer")',
    ),
    named(
        "rewriters/editing/wider_run.py",
        'e.op("Add", e.op("Mul", answer, samples), places, role="answers_taken")',
        'e.op("Add", answer, places, role="answers_taken")',
    ),
    named("rewriters/editing/wider_run.py", "with_companions(e, columns, e.op(", 'e.op("Or", columns, e.op('),
]
