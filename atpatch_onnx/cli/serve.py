"""`atpatch-onnx serve`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import click

from .options import output_kind
from .rendering import emit_json, note
from .serve_settings import check_options, make_settings, model_files, show_states

if TYPE_CHECKING:
    from ..serve.engine import Engine
    from ..serve.settings import Settings

_LEAST_ROWS = 50


def _weight(context: click.Context, parameter: click.Parameter, value: str) -> float:
    """`patched=0.1`, or only the number."""
    name, _, number = value.rpartition("=")
    try:
        weight = float(number)
    except ValueError:
        weight = -1.0
    if name not in ("", "patched") or not 0 <= weight <= 1:
        raise click.BadParameter("give patched=SHARE with a share between 0 and 1")
    return weight


@click.command()
@click.argument("original", type=click.Path())
@click.argument("patched", type=click.Path(), required=False)
@click.option(
    "--mode",
    type=click.Choice(["shadow", "ab", "patched", "original"]),
    default="shadow",
    show_default=True,
    help="Who answers.",
)
@click.option(
    "--calibrate",
    type=click.IntRange(_LEAST_ROWS),
    metavar="N",
    help="Without PATCHED: fit a hotfix on N samples of the first requests, then go on in mode shadow with it.",
)
@click.option(
    "--save-hotfix",
    type=click.Path(),
    metavar="FILE",
    help="With --calibrate: keep the hotfix. If FILE is there already, it is used and nothing is fitted.",
)
@click.option(
    "--verify-key",
    type=click.Path(),
    metavar="PEM",
    help="Public key: load only models that carry a good signature of it (see 'verify'). Needs the extra 'sign'.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", type=click.IntRange(0, 65535), default=8000, show_default=True, help="0: any free one.")
@click.option(
    "--grpc-port", type=click.IntRange(0, 65535), help="Also serve gRPC on this port (extra 'grpc'); 0: any free one."
)
@click.option("--name", help="Name of the model; by default the name of ORIGINAL's file.")
@click.option(
    "--weight",
    default="patched=0.1",
    show_default=True,
    callback=_weight,
    help="Mode ab: share of units for the patched arm.",
)
@click.option(
    "--experiment",
    default="atpatch",
    show_default=True,
    help="Name of the experiment; another name gives a new split of the units.",
)
@click.option(
    "--salt",
    envvar="ATPATCH_SALT",
    default="",
    help="Secret for the split and for the log's pseudonyms.  [env: ATPATCH_SALT]",
)
@click.option(
    "--unit-header",
    default="X-Atpatch-Unit",
    show_default=True,
    help="Header with the unit; the request parameter 'unit' takes precedence.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(0, min_open=True),
    help=(
        "Seconds that the patched arm has to answer.  [default: 1 where the original can answer after it, else"
        " --answer-timeout]"
    ),
)
@click.option(
    "--shadow-timeout",
    type=click.FloatRange(0, min_open=True),
    help="Seconds that a shadow run has; no client waits for it.  [default: 10, or --timeout if that is longer]",
)
@click.option(
    "--fallback",
    type=click.Choice(["original", "error"]),
    help=(
        "What a request gets when its patched run times out or fails. For NaN: the original's answer, or with 'error'"
        " the NaN, counted in the parameter 'non_finite'.  [default: error in mode patched, else original]"
    ),
)
@click.option(
    "--on-alarm",
    type=click.Choice(["tell", "refuse"]),
    default="tell",
    show_default=True,
    help=(
        "What the patched arm answers to a request with an alarm (see 'fit --alarm'): its answer, and the parameter"
        " 'alarm'; or an error, 422 with the code 'alarm'."
    ),
)
@click.option(
    "--strict-version", is_flag=True, help="Mode patched: refuse clients that ask for version 1, the original."
)
@click.option(
    "--allow-non-finite", is_flag=True, help="Accept NaN and infinity in inputs; by default they are refused."
)
@click.option(
    "--shadow-sample", type=click.FloatRange(0, 1), default=1.0, show_default=True, help="Share of requests to shadow."
)
@click.option(
    "--shadow-queue", type=click.IntRange(1), default=64, show_default=True, help="Most shadow runs that may wait."
)
@click.option("--kill-file", type=click.Path(), help="While this file exists, the original answers everything.")
@click.option(
    "--hot-threshold", is_flag=True, help="Let the admin endpoint change the patch's threshold and turn it on and off."
)
@click.option("--watch-class", type=int, help="Class for which the page shows what the patch gains or loses.")
@output_kind
@click.option("--log", type=click.Path(), help="Decision log (JSON lines) to append to.")
@click.option(
    "--log-size", type=click.IntRange(1), default=100, show_default=True, help="Rotate the log at this size in MB."
)
@click.option("--log-keep", type=click.IntRange(0), default=5, show_default=True, help="Rotated logs to keep.")
@click.option("--log-inputs", is_flag=True, help="Also write the inputs into the log.")
@click.option(
    "--threads", type=click.IntRange(1), default=1, show_default=True, help="Threads of onnxruntime in one run."
)
@click.option(
    "--workers", type=click.IntRange(1), help="Runs at a time, per arm; by default CPU cores divided by --threads."
)
@click.option(
    "--batch",
    type=click.IntRange(1),
    default=1,
    show_default=True,
    help="Join waiting requests into batches of at most this many samples; 1: never.",
)
@click.option(
    "--batch-delay",
    type=click.FloatRange(0),
    default=2.0,
    show_default=True,
    help="Milliseconds to wait for requests to join.",
)
@click.option("--max-batch", type=click.IntRange(1), default=64, show_default=True, help="Most samples in a request.")
@click.option(
    "--max-sequence",
    type=click.IntRange(1),
    default=2048,
    show_default=True,
    help="Largest size of any other dynamic axis.",
)
@click.option("--max-body", type=click.IntRange(1), default=32, show_default=True, help="Largest request body in MiB.")
@click.option(
    "--max-in-flight",
    type=click.IntRange(1),
    default=64,
    show_default=True,
    help="Most requests at a time; further ones get 503.",
)
@click.option(
    "--client-timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds a client has to send headers, to send a body, or to take an answer.",
)
@click.option(
    "--answer-timeout",
    type=click.FloatRange(0, min_open=True),
    default=30.0,
    show_default=True,
    help="Seconds that the original has to answer.",
)
@click.option(
    "--allow-host", multiple=True, help="Public host name of the page, in addition to localhost; may be repeated."
)
@click.option(
    "--drain",
    type=click.FloatRange(0),
    default=1.0,
    show_default=True,
    help="Seconds after SIGTERM until open connections are closed.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the address as JSON on stdout when the server is ready.")
def serve(original: str, patched: str | None, host: str, port: int, as_json: bool, **options: Any) -> None:
    """Serve ORIGINAL and PATCHED behind one name: Open Inference Protocol v2, metrics at /metrics, a page at /.

    Both may be folders that Optimum loads. If the only model is a patched one, its original is restored from it.

    Modes: shadow: the original answers, then the patched model runs and is compared. ab: each unit always gets the same
    model. patched, original: that model answers. --fallback says what a client gets when a patched run fails.
    With --calibrate N there is no PATCHED: a hotfix is fitted on the first N samples, which may hold a few attacks, and
    nothing is patched before.

    ATPATCH_KILL=1 or --kill-file turns the patch off; so does POST /admin/kill if ATPATCH_ADMIN_TOKEN is set. Needs the
    extras 'serve' and 'cpu' (or 'gpu').

    \b
    Example:
      atpatch-onnx serve model.onnx model.patched.onnx --log decisions.jsonl
      atpatch-onnx serve patched/ --mode patched
      atpatch-onnx serve model.onnx model.patched.onnx --mode ab --weight patched=0.05 --kill-file /run/patch-off
      atpatch-onnx serve model.onnx --calibrate 500 --save-hotfix model.traffic.hotfix
    """
    from contextlib import ExitStack
    from pathlib import Path

    from ..errors import EXTRA_MISSING

    options["name"] = options["name"] or Path(original).resolve().stem
    try:
        from ..serve.server import bind, serve as run
    except ModuleNotFoundError as error:
        raise EXTRA_MISSING(f"serving needs {error.name}", "pip install 'atpatch-onnx[serve]'") from error
    from ..serve.engine import Engine
    from ..serve.kill_switch import KillSwitch

    stack = ExitStack()
    alone = patched is None
    original, patched = model_files(original, patched, options["calibrate"] is not None, stack)
    check_options(patched, options)
    show_states()
    settings = make_settings(original, patched, options, restored=patched is not None and alone)
    listener = bind(host, port)
    engine = Engine(settings, KillSwitch(settings.kill_file))
    address, taken = listener.getsockname()[:2]
    url = f"http://[{address}]:{taken}" if ":" in address else f"http://{address}:{taken}"

    def ready(grpc_port: int | None) -> None:
        if as_json:
            _emit(engine, url, grpc_port)
        if grpc_port is not None:
            note(f"gRPC: {address}:{grpc_port}")
        _announce(engine, url)

    with stack:
        run(engine, listener, ready)


def _emit(engine: Engine, url: str, grpc_port: int | None) -> None:
    lane = engine.lanes.get("patched")
    described = {
        "url": url,
        "model": engine.settings.name,
        "mode": engine.settings.mode,
        "revision": engine.revision,
        "flags_told": lane is not None and not lane.arm.untold,
    }
    emit_json(described if grpc_port is None else {**described, "grpc_port": grpc_port})


def _announce(engine: Engine, url: str) -> None:
    from ..serve.admin import TOKEN_VARIABLE

    name = engine.settings.name
    note(f"{name}, mode {engine.settings.mode}, revision {engine.revision}: {url}/v2/models/{name}  (page: {url}/)")
    if engine.original.scores is None:
        note("no output holds class scores: the log tells how far outputs differ, and no predictions")
    if engine.settings.on_alarm == "refuse":
        _announce_refusals(engine.settings)
    if not os.environ.get(TOKEN_VARIABLE):
        note(f"no {TOKEN_VARIABLE} in the environment: there is no admin endpoint")


def _announce_refusals(settings: Settings) -> None:
    """Say who is not refused."""
    if settings.mode == "shadow":
        note("the original answers in mode shadow: alarms are counted and logged, and no request is refused for one")
    elif settings.mode == "patched" and not settings.strict_version:
        note("clients that name version 1 get the original, which refuses nothing; --strict-version refuses them")
