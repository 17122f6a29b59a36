"""Attention inside branches, loops and functions, and plans for it."""

from __future__ import annotations

import onnx

from rewriters.editing.patcher import patch
from rewriters.finding.finder import find_sites
from rewriters.plan import PatchPlan, SitePlan

from ..graphs import D, H


def plan_for(model: onnx.ModelProto, site_plan: SitePlan, **options: object) -> onnx.ModelProto:
    sites, _ = find_sites(model)
    return patch(model, PatchPlan(dict.fromkeys([site.id for site in sites], site_plan), **options), sites)  # type: ignore[arg-type]


NESTED = f"""
<ir_version: 8, opset_import: ["" : 17]>
nested (float[b, {H}, q, {D}] q, float[b, {H}, k, {D}] k, float[b, {H}, k, {D}] v, bool go) => (float[b, {H}, q,
{D}] out)
{{
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    out = If (go) <
        then_branch = yes () => (then_out) {{
            scores = MatMul (q, kt)
            p = Softmax <axis = -1> (scores)
            then_out = MatMul (p, v)
        }},
        else_branch = no () => (else_out) {{
            neg = Neg (q)
            scores2 = MatMul (neg, kt)
            p2 = Softmax <axis = -1> (scores2)
            else_out = MatMul (p2, v)
        }}
    >
}}
"""


FUNCTIONS = f"""
<ir_version: 9, opset_import: ["" : 18, "local" : 1]>
calls (float[b, {H}, q, {D}] q, float[b, {H}, k, {D}] k, float[b, {H}, k, {D}] v) => (float[b, {H}, q, {D}] out)
{{
    first = local.Outer (q, k, v)
    out = local.Attend (first, k, v)
}}
<domain: "local", opset_import: ["" : 18]>
Attend (q, k, v) => (out)
{{
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    scores = MatMul (q, kt)
    p = Softmax <axis = -1> (scores)
    out = MatMul (p, v)
}}
<domain: "local", opset_import: ["" : 18, "local" : 1]>
Outer (q, k, v) => (out)
{{
    inner = local.Attend (q, k, v)
    out = Relu (inner)
}}
"""
