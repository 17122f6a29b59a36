"""The second run of two passes as a model of its own, which takes the flagged columns as an input.

What the second run makes of a sample follows from its flagged columns, whichever detectors and thresholds flag them. So
who compares many of these runs the model only once for each set of columns, and without its first run and detectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import onnx
from onnx import TensorProto, helper

from ..errors import NOT_ADMITTED, AtpatchError
from ..model.bodies import Wiring, needed, reads
from ..names import GIVEN_COLUMNS, THRESHOLD, columns_output
from ..plan import PatchPlan
from ..sites import Site
from .edits import refill
from .patcher import patch, refusal
from .row_claims import ShownRows

__all__ = ["joint_scores", "second_run_of"]


def second_run_of(
    model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], output: str, rows: ShownRows | None = None
) -> onnx.ModelProto | AtpatchError:
    """A model with the output (B, ...) of the second run, from the inputs of a request and the input
    `names.GIVEN_COLUMNS` (B, K) bool; or why there is none.

    Args:
        plan: two passes with one group, of all its sites. What it says of detectors, thresholds and acceptance makes no
            difference.
        output: of the model.
        rows: see `patch`.
    """
    plan = replace(plan, gating="none", controls="none", telemetry=True, accept="always", wider=0)
    if (reason := refusal(model, plan, sites)) is not None:
        return reason
    alone = patch(model, plan, sites, rows=rows)
    made = Wiring(alone.graph.node).maker
    flagged = made[columns_output(plan.groups[0][0])].input[0]
    chosen = made[made[output].input[0]] if made[output].op_type == "Identity" else made[output]
    if chosen.op_type != "Where":
        return NOT_ADMITTED(f"the output {output} does not depend on what is flagged")
    answer = chosen.input[1]
    nodes = needed([node for node in alone.graph.node if flagged not in node.output], [answer])
    read = {name for node in nodes for name in reads(node)}
    given = helper.make_node("Identity", [GIVEN_COLUMNS], [flagged])
    last = helper.make_node("Identity", [answer], [output])
    outputs = [value for value in alone.graph.output if value.name == output]
    refill(alone.graph.node, [given, *nodes, last])
    refill(alone.graph.output, outputs)
    refill(alone.metadata_props, [])  # no stamp: nothing of this can be undone
    refill(alone.graph.initializer, [tensor for tensor in alone.graph.initializer if tensor.name in read])
    alone.graph.input.append(helper.make_tensor_value_info(GIVEN_COLUMNS, TensorProto.BOOL, [None, None]))
    return alone


def joint_scores(patched: onnx.ModelProto) -> tuple[str, str]:
    """Two values (B, K) float32 of a patch in two passes with joint "sum", one group and controls: what is compared
    with the threshold, and the sum of which that is made; where a column is not judged, the sum is -inf.
    """
    compared = {
        node.input[0] for node in patched.graph.node if node.op_type == "Greater" and node.input[1] == THRESHOLD
    }
    (score,) = compared
    maker = next(node for node in patched.graph.node if score in node.output)
    return score, maker.input[0] if maker.op_type == "Sigmoid" else score
