"""The decision log: what a row is (`rows`), its one writer (`writer`), its one reader (`reader`), and the files of a
log (`files`).

A log is JSON lines, one object a line, strict JSON (no bare NaN). Field reference, schema 1.

Every row has
    schema      int, 1
    event       str: "decision" (one a request that was answered), "failure" (one a request that got an error, as its
                arm failed), "revision" (what is served has changed), "switch" (kill switch moved), "calibration"
                (the calibration on live requests has come to another state)
    time        str, RFC 3339 in UTC with microseconds; of a decision: when the request had been read
    unix        float, the same moment in seconds
    experiment  str
    revision    int ≥ 1; rises with every change of weight, controls or a model file, and goes on from the last row
                after a restart
    salt        str, 16 hex digits: digest of the salt, never the salt
    mode        str: "shadow", "ab", "patched", "original"
    weight      float in [0, 1]: share of units that go to the patched arm (ab; else 0 or 1: who should answer)

A "decision" row adds
    id          str, request id: the client's, else made up
    unit        str, 16 hex digits: keyed digest of salt and unit, never the raw unit; where no unit was given, of the
                request id
    unit_given  bool: false where the request id replaced a missing unit (then crossovers cannot be seen)
    assigned    str | null: "original" or "patched" by mode and split; null where the client named a version, such rows
                are no part of the experiment
    arm         str, whose answer the client got: "original" or "patched"
    fallback    str | null, why the original answered instead of the patched arm: "timeout", "error", "non_finite",
                "busy" (others hang), "killed", "absent". With "non_finite", `arm` may be "patched": the original
                then answered for some of the samples
    batch       int ≥ 1: samples in the request; lists below have one entry a sample, in order
    prediction  {"original": [int | null, …] | null, "patched": [int | null, …] | null}: argmax of the class scores,
                null for a sample with NaN in them; null instead of the list where that arm did not run to its end or no
                output has class scores
    flagged     [bool | null, …] | null: samples that the patch flagged, null for one that was not and gave NaN, which
                is above no threshold; null instead of the list where the patched arm did not run or its graph has no
                masks
    sites       [str, …] | null: ids of the sites at which any sample was flagged
    columns     {site: [[int, …], …]} | null: per such site and sample the flagged key columns, at most 64 a sample
    alarms      [bool, …] | null: samples with an alarm; null where the patched arm did not run or has no alarm. Rows of
                older versions lack it
    shadow      str | null: null where no shadow run was wanted, else "compared", "dropped" (queue full), "timeout",
                "error", "non_finite" (all samples of the patched arm)
    agree       [bool | null, …] | null: of "compared" rows with class scores: both arms predict the same; null where
                one predicts nothing
    difference  [float | null, …] | null: of "compared" rows: largest |original − patched| over all float outputs; null
                where that is no finite number
    latency_ms  {"original": float | null, "patched": float | null, "total": float}: per arm from hand-over to result
                (waiting for a thread and for a batch included), total from request read to answer ready
    inputs      {name: nested list}, only with --log-inputs. In a float tensor the strings "NaN", "Infinity" and
                "-Infinity" replace the numbers that JSON does not have
    input_types {name: str}, next to `inputs`: numpy's name of the element type ("float32", "int64", …), "str" for text.
                Rows of older versions lack it; their types are guessed from the values

A "failure" row adds `id`, `unit`, `unit_given`, `assigned` and `batch` as above, `arm` (str: the arm that failed) and
`reason` (str: "timeout", "error" (the model refuses the input), "busy", "memory", "alarm" (refused for an alarm)), and
`alarms` as above, which rows of older versions lack. Requests that are refused before an
arm is asked have no row. A "revision" row adds `reason` (str), `models` ({arm: {"path", "sha256"}}), `enabled` (bool |
null) and `threshold` (float | null), null meaning "as in the file". A "switch" row adds `on` (bool) and `source`
("admin", "file", "environment"; several joined by "+"). A "calibration" row adds `state` ("calibrating", "fitting",
"fitted", "failed"), `rows` and `wanted` (int: rows of requests taken, and needed), `reason` (str | null: why it failed)
and `hotfix` (str | null: SHA-256 of the fitted file). Readers skip events and fields that they do not know. A rotated
log is `FILE.1` (youngest) to `FILE.N`, each perhaps compressed (`.gz`).
"""

from __future__ import annotations

from .files import Reading, last_revision, log_files, read_rows
from .reader import RowRefused, from_line
from .rows import (
    ARMS,
    SCHEMA,
    CalibrationRow,
    DecisionRow,
    FailureRow,
    LogRow,
    RequestRow,
    RevisionRow,
    SwitchRow,
    agreement,
)
from .writer import to_json, to_line

__all__ = [
    "ARMS",
    "SCHEMA",
    "CalibrationRow",
    "DecisionRow",
    "FailureRow",
    "LogRow",
    "Reading",
    "RequestRow",
    "RevisionRow",
    "RowRefused",
    "SwitchRow",
    "agreement",
    "from_line",
    "last_revision",
    "log_files",
    "read_rows",
    "to_json",
    "to_line",
]
