"""Site + PatchPlan → patched graph, and back.

Patching replaces single nodes of the ModelProto by lists of nodes and changes nothing else. So undoing is exact: it
removes each list, puts the node back, and drops what was appended. onnx-ir is not used for writing, since a round trip
through it may reorder or drop fields (empty quantization annotations, unused value_info) that `unpatch` promises to
keep.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import onnx

from ..checks import opset_of, plan_refusal
from ..emit import ConstantPool, Emitter
from ..errors import ALREADY_PATCHED, NAME_CLASH, NO_SITE, NOT_PATCHED, STAMP_MISMATCH, AtpatchError
from ..finding.hidden_states import HiddenState
from ..finding.key_value import HealingPlaces
from ..model.bodies import Wiring, body_at, outputs_of, walk_bodies
from ..model.constant_pool import whole_numbers
from ..model.io import digest
from ..names import is_inserted, is_ours
from ..plan import PatchPlan, Smoothing
from ..sites import Site, Where
from ..subgraphs.site import Replacement, SitePatch, detect_site, patch_site, score_site
from ..subgraphs.smoothing import smooth_site
from . import stamp as stamping
from .admission import not_admitted
from .alarm import alarm_states
from .controls import DEFAULT, add_controls, body_controls, strip_controls, thread_controls, with_controls
from .edits import apply, drop_unread_constants, refill, restore
from .healed_bodies import HealedBody, bodies_of, with_places
from .healed_branches import add_healing_to
from .observe import Recorded, record, recorded
from .qdq_barrier import shield_all
from .row_claims import ShownRows, with_shown_rows
from .second_pass import add_second_pass
from .span import add_span, span_refusal, span_sites
from .stamp import Edit
from .telemetry import add_outputs, telemetry_facts

__all__ = ["is_patched", "patch", "refusal", "stamp", "unpatch"]


def patch(
    model: onnx.ModelProto,
    plan: PatchPlan,
    sites: Sequence[Site],
    places: HealingPlaces | None = None,
    rows: ShownRows | None = None,
) -> onnx.ModelProto:
    """A patched copy of the model; the argument stays unchanged.

    Args:
        model: loaded without external data; its references stay valid in the same folder.
        plan: what each site gets.
        sites: what the finder found in this very model; those that the plan does not name stay unchanged.
        places, rows: of this very model, where they are known already: a fit patches one model many times.

    Raises:
        AtpatchError: ATP006 (opset), ATP010 (no site), ATP012 (patched already), ATP015 (plan does not fit), ATP022
            (the model uses our names), ATP023 (the graph does not support it), ATP024 (the plan is impossible).
    """
    admitted = _admitted(model, plan, sites, places)
    if isinstance(admitted, AtpatchError):
        raise admitted
    plan = with_controls(plan, model)
    chosen = [site for site in sites if site.id in plan.sites]
    plan = with_shown_rows(plan, rows or ShownRows(model), {site.id: site for site in sites})
    patched = onnx.ModelProto()
    patched.CopyFrom(model)
    by_body = _by_body(chosen)
    add_controls(patched, plan)
    replacements: dict[Where, list[Replacement]] = {}
    pools = _pools(patched, by_body)
    patches: dict[str, SitePatch] = {}
    ahead: dict[Where, Emitter] = {}
    for where, here in by_body.items() if plan.mend != "heal" else ():
        made, ahead[where] = _patch_body(patched, plan, where, here, pools[where])
        replacements[where] = [replacement for site in here for replacement in made[site.id].replacements]
        patches |= made
    thread_controls(patched, plan, replacements)
    appended: list[onnx.NodeProto] = []
    columns = {site.id: patches[site.id].columns for site in by_body[()] if site.id in patches}
    if admitted.healed:
        healed = add_healing_to(patched, admitted.healed, pools[()])
        replacements[()], columns = healed.replacements, {site.id: healed.flags for site in chosen}
    elif plan.passes == "two":
        joined = {site.id: (site, patches[site.id]) for site in by_body[()] if site.id in chain(*plan.groups)}
        second = add_second_pass(patched, plan, joined, replacements.get((), []), ahead[()], pools[()])
        replacements[()], appended = second.replacements, second.appended
        columns |= second.columns
    appended += add_outputs(patched, plan, sites, columns, admitted.states, pools[()])
    spans: dict[str, str] = {}
    if plan.span is not None:
        replacements[()], last, spans = add_span(patched, plan, admitted.reporting, replacements.get((), []), pools[()])
        appended += last
    appended = shield_all(patched, replacements, appended)
    edits = apply(patched, replacements, appended, {where: e.nodes for where, e in ahead.items()})
    drop_unread_constants(patched)
    told = {site.id: recorded(site, columns.get(site.id), patches.get(site.id)) for site in chosen}
    facts = {**_facts(plan, digest(model), told), **telemetry_facts(plan, sites), **spans}
    stamping.write(patched, facts, edits)
    return patched


def refusal(model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site]) -> AtpatchError | None:
    """Why `patch` refuses, as the error that it raises; None where it does not. Nothing is written for this check."""
    admitted = _admitted(model, plan, sites)
    return admitted if isinstance(admitted, AtpatchError) else None


@dataclass(frozen=True)
class _Admitted:
    """What a plan that heals does it in, nothing for other plans; the sites that report on its marked span; the hidden
    states of its alarm by site.
    """

    healed: Sequence[HealedBody]
    reporting: Sequence[Site]
    states: Mapping[str, HiddenState]


def _admitted(
    model: onnx.ModelProto, plan: PatchPlan, sites: Sequence[Site], known: HealingPlaces | None = None
) -> _Admitted | AtpatchError:
    """Why `patch` refuses; else what it has to know of the model."""
    if is_patched(model):
        return ALREADY_PATCHED("this model carries an atpatch stamp")
    if any(is_inserted(name) for _, body in walk_bodies(model) for node in body.node for name in node.output):
        return ALREADY_PATCHED(
            "this model has the nodes of a patch, but no stamp: a tool dropped its metadata", "patch the original"
        )
    clash = next((name for name in _values(model) if is_ours(name)), None)
    if clash is not None:
        return NAME_CLASH(f"a value of the model is called {clash!r}, a name that belongs to a patch")
    if (reason := plan_refusal(model, plan, sites)) is not None:
        return reason
    if not plan.sites:
        return NO_SITE("the plan names no site of this model")
    bodies = bodies_of(model, plan, sites) if plan.mend == "heal" else []
    if isinstance(bodies, AtpatchError):
        return bodies
    if (reason := not_admitted(model, plan, sites, bodies)) is not None:
        return reason
    healed = with_places(bodies, known)
    if isinstance(healed, AtpatchError):
        return healed
    reporting = span_sites(model, plan, sites) if plan.span is not None else []
    states = alarm_states(model, plan)
    if isinstance(states, AtpatchError):
        return states
    return span_refusal(model, plan, reporting) or _Admitted(healed, reporting, states)


def unpatch(model: onnx.ModelProto, *, exact: bool = True) -> onnx.ModelProto:
    """The original model, field for field.

    Args:
        exact: compare the result with the digest of the original. False is for a model that a tool has rewritten which
            keeps graphs but not bytes (onnx_ir): then the removed nodes must be ours, and none of ours may be left.

    Raises:
        AtpatchError: ATP013 (no stamp), ATP014 (the result is not the original: the file was changed after patching).
    """
    if not is_patched(model):
        raise NOT_PATCHED("no atpatch stamp in the model's metadata_props")
    original = onnx.ModelProto()
    original.CopyFrom(model)
    edits = stamping.read_undo(model)
    by_body: dict[Where, list[Edit]] = defaultdict(list)
    for edit in edits:
        by_body[edit.where].append(edit)
    try:
        # Paths are in original indices, so a body is restored before those inside it are looked up.
        for where in sorted(by_body, key=len):
            restore(body_at(original, where), by_body[where], watchful=not exact)
    except (IndexError, StopIteration, onnx.parser.ParseError) as error:
        raise STAMP_MISMATCH("the undo record points at nodes that are not there") from error
    strip_controls(original)
    # other tools write types of our values into a file, we do not
    infos = [body.value_info for _, body in walk_bodies(original)]
    for field in (original.graph.initializer, original.graph.input, original.graph.output, *infos):
        if any(is_ours(value.name) for value in field):
            refill(field, [value for value in field if not is_ours(value.name)])
    kept = [entry for entry in original.metadata_props if not entry.key.startswith(stamping.KEY)]
    refill(original.metadata_props, kept)
    if exact and digest(original) != stamping.read(model).get("original"):
        raise STAMP_MISMATCH("undoing the patch does not give back the original graph")
    if not exact and any(
        is_ours(name) for _, body in walk_bodies(original) for node in body.node for name in (*node.input, *node.output)
    ):
        raise STAMP_MISMATCH("undoing the patch leaves parts of it behind")
    return original


def is_patched(model: onnx.ModelProto) -> bool:
    """Whether the model carries a stamp."""
    return any(entry.key.startswith(stamping.KEY) for entry in model.metadata_props)


def stamp(model: onnx.ModelProto) -> dict[str, str]:
    """Facts of the stamp: version, original and hotfix (digests), sites, detector, gating, passes, controls, threshold,
    observe; lengths where they are known, span and alarm where they are reported."""
    return stamping.read(model)


def _facts(plan: PatchPlan, original: str, columns: Mapping[str, Recorded]) -> dict[str, str]:
    """The facts for the stamp.

    Args:
        original: digest of the original model.
        columns: site id → its mask (B, K), see `observe.record`.
    """
    return {
        "version": stamping.version(),
        "original": original,
        "hotfix": plan.digest,
        "sites": " ".join(columns),
        "detector": " ".join(sorted({plan.sites[site].detector.kind for site in columns})),
        "gating": plan.gating,
        "passes": plan.passes,
        "controls": plan.controls,
        DEFAULT: repr(plan.threshold),
        **record(plan, columns),
    }


def _by_body(sites: Iterable[Site]) -> dict[Where, list[Site]]:
    by_body: dict[Where, list[Site]] = defaultdict(list)
    for site in sites:
        by_body[site.where].append(site)
    return by_body


def _patch_body(
    model: onnx.ModelProto, plan: PatchPlan, where: Where, sites: Sequence[Site], pool: ConstantPool
) -> tuple[dict[str, SitePatch], Emitter]:
    """The patches by site, and what comes in front of the whole body."""
    body = body_at(model, where)
    wiring = Wiring(body.node, outputs_of(body))
    shared: dict[str, str] = {}
    conditional = plan.gating == "if"
    top = Emitter(sites[0].id, opset_of(model, where), pool, {}, conditional=conditional)
    patches: dict[str, SitePatch] = {}
    carried: dict[tuple[str, ...], SitePatch] = {}
    for site in sites:
        e, site_plan = (
            Emitter(site.id, opset_of(model, where), pool, shared, conditional=conditional, top=top),
            plan.sites[site.id],
        )
        controls = body_controls(e, plan)
        group = next((group for group in plan.groups if site.id in group), None)
        if group is not None and plan.passes == "two" and where == ():
            joint = plan.joint == "sum"
            patches[site.id] = (
                score_site(e, site, site_plan, wiring) if joint else detect_site(e, site, site_plan, controls, wiring)
            )
            continue
        earlier = carried.get(group) if group is not None else None
        if isinstance(site_plan.detector, Smoothing):
            patches[site.id] = smooth_site(e, site, site_plan.detector, controls, wiring)
            continue
        patches[site.id] = patch_site(e, site, site_plan, controls, wiring, earlier, reported=plan.telemetry)
        if group is not None:
            carried[group] = patches[site.id]
    return patches, top


def _values(model: onnx.ModelProto) -> Iterator[str]:
    """Names of all values, in all bodies."""
    for _, body in walk_bodies(model):
        if isinstance(body, onnx.GraphProto):
            infos = (body.input, body.output, body.initializer, body.value_info)
            yield from (value.name for values in infos for value in values)
            yield from (sparse.values.name for sparse in body.sparse_initializer)
        else:
            yield from (*body.input, *body.output)
        for node in body.node:
            yield from node.output


def _pools(model: onnx.ModelProto, bodies: Iterable[Where]) -> dict[Where, ConstantPool]:
    """One pool for all bodies that see the main graph's initializers, one each for those that do not (see
    `ConstantPool`).
    """
    common = ConstantPool(model.graph.initializer, "constant", whole_numbers(model.graph))
    pools: dict[Where, ConstantPool] = {(): common if model.ir_version >= 4 else ConstantPool(None, "constant/main")}
    for number, where in enumerate(bodies):
        sees_initializers = model.ir_version >= 4 and not (where and where[0][1] == "function")
        pools.setdefault(where, common if sees_initializers else ConstantPool(None, f"constant/{number}"))
    return pools
