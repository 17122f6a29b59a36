"""Typed errors with stable codes.

A `Fault` is the catalog entry of one code: what goes wrong, how to fix it, and the longer explanation that
`atpatch-onnx explain` prints. Calling a fault makes the exception to raise::

    raise NOT_ONNX(f"{path} does not parse as an ONNX model")

Codes never change meaning. ATP001-ATP049 belong to the graph engine (this package); the packages above add theirs
with `declare`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["CATALOG", "AtpatchError", "DataError", "Fault", "ModelError", "PlanError", "ServeError", "declare"]

CATALOG: dict[str, Fault] = {}
"""Every declared fault by its code, in order of declaration."""


class AtpatchError(Exception):
    """A refusal with a code: `what` happened, and how to fix it (`fix`).

    Each code belongs to one of the four classes below this one.
    """

    def __init__(self, fault: Fault, what: str, fix: str) -> None:
        super().__init__(f"{fault.code}: {what} ({fix})")
        self.fault = fault
        self.what = what
        self.fix = fix

    @property
    def mend(self) -> str:
        """The name that `fix` had in version 0.1."""
        return self.fix

    @property
    def code(self) -> str:
        """`ATP0xx`, which never changes its meaning."""
        return self.fault.code

    @property
    def exit_code(self) -> int:
        """Exit status of the command line: 1 a check failed, 2 refused, 3 no site."""
        return self.fault.exit_code


class ModelError(AtpatchError):
    """Errors of a model: its file, its graph, its export, or a run of it."""


class PlanError(AtpatchError):
    """Errors of a request: its plan, hotfix or options, or a missing package."""


class DataError(AtpatchError):
    """Errors of rows, logs and other files: missing, malformed, or not writable."""


class ServeError(AtpatchError):
    """Errors of serving: the server, its two models, or a deployment."""


@dataclass(frozen=True)
class Fault:
    """One stable error code.

    Attributes:
        code: `ATP0xx`.
        kind: the class that `except` catches it by.
        summary: one line, what this code means in general.
        fix: one line, what to do about it.
        detail: a paragraph for `atpatch-onnx explain CODE`.
        exit_code: process exit status (1 check failed, 2 refused input, 3 no site).
    """

    code: str
    kind: type[AtpatchError]
    summary: str
    fix: str
    detail: str
    exit_code: int = 2

    def __call__(self, what: str, fix: str | None = None) -> AtpatchError:
        return self.kind(self, what, fix or self.fix)


def declare(code: str, kind: type[AtpatchError], summary: str, fix: str, detail: str, exit_code: int = 2) -> Fault:
    """Add a fault to the catalog; a code can be declared only once."""
    if code in CATALOG:
        raise ValueError(f"{code} is declared twice")
    fault = Fault(code, kind, summary, fix, detail, exit_code)
    CATALOG[code] = fault
    return fault


NOT_ONNX = declare(
    "ATP001",
    ModelError,
    "the file is not a readable ONNX model",
    "check the path, or export the model again",
    "The bytes do not parse as an ONNX ModelProto, or the graph in it is empty. Truncated downloads and files of"
    " another format (pickled torch weights, TFLite, Git LFS pointers) end here.",
)
NO_SUCH_FILE = declare(
    "ATP002",
    DataError,
    "the path is missing, is a directory, or cannot be read",
    "give the path of one .onnx file",
    "A model folder (Hugging Face, Triton) holds the .onnx file under some name; give that file itself.",
)
EXTERNAL_MISSING = declare(
    "ATP003",
    ModelError,
    "an external data file is missing or too short",
    "put the .data file back next to the model, under the name that the model gives",
    "The model keeps weights in a second file. onnxruntime would fail to load it too. Copy the whole folder, not"
    " only the .onnx file.",
)
EXTERNAL_ESCAPES = declare(
    "ATP004",
    ModelError,
    "external data lies outside the model's folder",
    "move the data file into the model's folder and save the model with a plain relative location",
    "A location that is absolute, or climbs out with '..' or a symbolic link, could make a tool read or publish any"
    " file of the machine. It is refused for every command.",
)
INVALID_MODEL = declare(
    "ATP005",
    ModelError,
    "the onnx checker rejects the model",
    "export the model again, or repair it; the message quotes the checker",
    "The checker runs before and after every edit. When it rejects the input, the error was there before patching.",
)
OPSET_TOO_OLD = declare(
    "ATP006",
    ModelError,
    "the model's opset is too old to patch",
    "export with opset 11 or newer, or run onnx.version_converter",
    "The inserted subgraphs need operators (Where, GatherElements, ...) that older opsets lack. Opsets are never raised"
    " as a side effect of patching, since that could change the meaning of nodes we did not write.",
)
NO_SITE = declare(
    "ATP010",
    ModelError,
    "no attention site was found",
    "run 'inspect' to see why each candidate was rejected",
    "A site is a Softmax whose normalized axis is contracted with non-constant values. Graphs without one have nothing"
    " to patch.",
    exit_code=3,
)
BAD_FILTER = declare(
    "ATP011",
    PlanError,
    "a site filter is not a regular expression",
    "check the pattern given to --include or --exclude",
    "Filters are Python regular expressions searched in the site's id and scope.",
)
ALREADY_PATCHED = declare(
    "ATP012",
    ModelError,
    "the model carries a patch already",
    "unpatch it first, or patch the original",
    "A model can have only one patch: a second detector would read maps that the first one has changed. On a patched"
    " model, 'patch' removes the old patch first; where that is impossible it stops here.",
)
NOT_PATCHED = declare(
    "ATP013",
    ModelError,
    "the model carries no patch",
    "give a file that 'patch' wrote",
    "The stamp that 'unpatch' needs is kept in the model's metadata_props under keys that start with 'atpatch.'.",
)
STAMP_MISMATCH = declare(
    "ATP014",
    ModelError,
    "the patched model was changed after patching",
    "unpatch the file as 'patch' wrote it, or go back to the original file",
    "Undoing the patch gives a graph whose digest differs from the original's. If a tool renamed nodes or optimized the"
    " graph after patching, the undo record is useless.",
)
PLAN_MISFIT = declare(
    "ATP015",
    PlanError,
    "the patch plan does not fit the model",
    "fit a hotfix on this very model",
    "Array shapes of a detector or of the benign pair do not match the heads, query rows or key columns of the site.",
)
OUTPUT_IS_INPUT = declare(
    "ATP016",
    PlanError,
    "the output would overwrite the input",
    "give another -o, or --in-place",
    "The original is the last way back, so it is overwritten only with --in-place.",
)
DETECTOR_MODEL = declare(
    "ATP017",
    PlanError,
    "the detector graph cannot be inserted",
    "give an ONNX file with one input (B, H, Q, K) and one output (B, K), float32, in an opset the model can hold",
    "A detector of kind 'onnx' is copied into the model unchanged, so it must fit the model's opset and use no custom"
    " operator.",
)
DATA_FILE_EXISTS = declare(
    "ATP018",
    DataError,
    "another file is in the place of the model's external data",
    "choose an output folder without that file, or move it away",
    "A data file at the destination has the right name and other content. It may belong to another model, so it is"
    " neither overwritten nor appended to.",
)
NOT_WRITABLE = declare(
    "ATP019",
    DataError,
    "the output cannot be written",
    "check that the folder exists, is writable, and has room",
    "Files are written under a temporary name in the same folder and renamed when complete, so a failure leaves an"
    " existing file unchanged.",
)
TOO_LARGE = declare(
    "ATP020",
    ModelError,
    "the model is too large for one protobuf file",
    "save it with external data first (onnx.save_model with save_as_external_data=True), then patch that",
    "A protobuf message can hold at most 2 GiB. Weights in external data files do not count.",
)
NOT_REGULAR = declare(
    "ATP021",
    DataError,
    "the path is not a regular file",
    "give the name of a regular file",
    "Reading a FIFO or a device may wait forever, and saving would replace a device, a FIFO, a socket or a symbolic"
    " link by a file. So a source must be a regular file or a link to one, and a destination must be free or a regular"
    " file. A link as a destination is refused since you did not name the file it points to: give that file.",
)
NAME_CLASH = declare(
    "ATP022",
    ModelError,
    "the model uses a name that a patch needs",
    "rename that value in the model, then patch it",
    "Everything that a patch adds to a graph has a name that starts with 'atpatch/' or 'atpatch_'. By these names it is"
    " found and removed later. A value of the model with such a name would be taken for a part of the patch.",
)
NOT_ADMITTED = declare(
    "ATP023",
    ModelError,
    "the graph does not support what was asked for",
    "ask for less: the message says what to leave out",
    "Two passes, excision, healing, accepting flips only, and telemetry each need something from a graph: samples on"
    " the first axis, one padding mask, an output with class scores, keys that are made of the request's own tokens, a"
    " site in the main graph. The plan is valid, and other graphs support it.",
)
PLAN_IMPOSSIBLE = declare(
    "ATP024",
    PlanError,
    "the patch plan contradicts itself",
    "change the plan as the message says",
    "A part of the plan has a value that is wrong for every model, or contradicts another part: for example sites that"
    " add up their scores in one pass, or a benign attention that is not finite.",
)
FOLDER_EXISTS = declare(
    "ATP025",
    DataError,
    "the output folder exists",
    "name a folder that does not exist yet, or an empty one",
    "A folder is made in one step: it gets its name when it is complete. A folder that holds files is never added to,"
    " so no file of an earlier run can stay in it. Remove it first if it is not needed.",
)
OUTPUT_INSIDE = declare(
    "ATP026",
    DataError,
    "the output lies in the input folder",
    "name a folder outside of the input",
    "The output folder holds everything that the input folder holds. Inside of it, it would hold itself the next time.",
)
LINK_ESCAPES = declare(
    "ATP027",
    DataError,
    "a symbolic link leads out of the folder",
    "replace the link by the file, or take it out of the folder",
    "Everything in the folder comes along. A link could make any file of this machine a part of the output, which is"
    " then served or published. Links that stay inside the folder come along as links, and the links of a Hugging Face"
    " cache, which lead into the same repository, as files.",
)
# Its number is older than the rule that codes of the graph engine lie below ATP050.
UNKNOWN_SITE = declare(
    "ATP058",
    PlanError,
    "the model has no site of that name",
    "run 'inspect' for the site ids of this model",
    "Site ids are derived from the exporter's module scopes and are unique within a model.",
)
