"""Error codes of the user-facing package, ATP050 and up, and the engine's own, re-exported.

`CATALOG` maps every code to its `Fault`; importing this module fills it with both ranges. There is no `__all__`: a
new code is declared here once, and that makes it public.
"""

from __future__ import annotations

from rewriters.errors import (
    ALREADY_PATCHED as ALREADY_PATCHED,
    BAD_FILTER as BAD_FILTER,
    CATALOG as CATALOG,
    DATA_FILE_EXISTS as DATA_FILE_EXISTS,
    DETECTOR_MODEL as DETECTOR_MODEL,
    EXTERNAL_ESCAPES as EXTERNAL_ESCAPES,
    EXTERNAL_MISSING as EXTERNAL_MISSING,
    INVALID_MODEL as INVALID_MODEL,
    NO_SITE as NO_SITE,
    NO_SUCH_FILE as NO_SUCH_FILE,
    NOT_ADMITTED as NOT_ADMITTED,
    NOT_ONNX as NOT_ONNX,
    NOT_PATCHED as NOT_PATCHED,
    NOT_WRITABLE as NOT_WRITABLE,
    OPSET_TOO_OLD as OPSET_TOO_OLD,
    OUTPUT_IS_INPUT as OUTPUT_IS_INPUT,
    PLAN_IMPOSSIBLE as PLAN_IMPOSSIBLE,
    PLAN_MISFIT as PLAN_MISFIT,
    STAMP_MISMATCH as STAMP_MISMATCH,
    TOO_LARGE as TOO_LARGE,
    UNKNOWN_SITE as UNKNOWN_SITE,
    AtpatchError as AtpatchError,
    DataError as DataError,
    Fault as Fault,
    ModelError as ModelError,
    PlanError as PlanError,
    ServeError as ServeError,
    declare as declare,
)

from .data_errors import (
    DATA_MALFORMED as DATA_MALFORMED,
    FOREIGN_UNREADABLE as FOREIGN_UNREADABLE,
    LOG_UNREADABLE as LOG_UNREADABLE,
    NOTHING_FOUND as NOTHING_FOUND,
    OUTCOMES_UNREADABLE as OUTCOMES_UNREADABLE,
    ROWS_MISFIT as ROWS_MISFIT,
    SAMPLES_UNREADABLE as SAMPLES_UNREADABLE,
    TOKENIZER_UNUSABLE as TOKENIZER_UNUSABLE,
)

RUNTIME_MISSING = declare(
    "ATP050",
    PlanError,
    "onnxruntime is not installed",
    "pip install 'atpatch-onnx[cpu]' (or 'atpatch-onnx[gpu]' on a CUDA host)",
    "Inspecting, patching and unpatching need no runtime; everything that runs a model does. The CPU and the GPU build"
    " of onnxruntime cannot live in one environment, so neither is installed unless you name it.",
)
EXTRA_MISSING = declare(
    "ATP051",
    PlanError,
    "an optional dependency of this command is not installed",
    "install the extra that the message names",
    "A production host that only patches and serves needs neither torch nor matplotlib, so those are extras."
    " 'atpatch-onnx doctor' lists what is missing for which command.",
)
RUNTIME_REFUSES = declare(
    "ATP052",
    ModelError,
    "onnxruntime cannot load or run the model",
    "check that the original model loads in this onnxruntime; a newer onnxruntime may be needed for its opset or IR"
    " version",
    "The message quotes onnxruntime. A bfloat16 model does not load on the CPU provider at all, and an old"
    " onnxruntime refuses a newer IR version.",
)
HOTFIX_CORRUPT = declare(
    "ATP053",
    PlanError,
    "the hotfix file is corrupt or not a hotfix",
    "fetch or fit the hotfix again",
    "A hotfix is a safetensors file. Its header holds the plan, and its content digest is checked on loading, which a"
    " truncated or edited file does not pass.",
)
HOTFIX_MISMATCH = declare(
    "ATP054",
    PlanError,
    "the hotfix belongs to another model",
    "fit a hotfix on this model, or pass --force if the difference is deliberate",
    "Every hotfix carries fingerprints of the structure and of the weights it was fitted on. Detectors and benign"
    " values of one model are wrong for another, even for one of the same architecture.",
)
HOTFIX_VERSION = declare(
    "ATP055",
    PlanError,
    "the hotfix was written in a format this version does not read",
    "upgrade atpatch-onnx, or fit the hotfix again",
    "The format version in the header is not the one that this program knows.",
)
NOT_HELPFUL = declare(
    "ATP057",
    PlanError,
    "no hotfix that helps was found",
    "check that the rows hold this model's trigger and that the columns mark it; then give more rows, or allow more"
    " false flags",
    "On the held-back part of the data no choice of sites, benign level and threshold lowered the attack rate within"
    " the allowed accuracy loss and clean flag rate. So nothing is written: a patch would only cost time.",
    exit_code=1,
)
UNKNOWN_CODE = declare(
    "ATP059",
    PlanError,
    "no such code",
    "run 'atpatch-onnx explain' for the list",
    "Error codes are ATP0xx; the reason codes of rejected Softmax nodes are explained by the same command.",
)
BAD_OPTION = declare(
    "ATP060",
    PlanError,
    "an option has an impossible value or contradicts another option",
    "see '--help' of the command",
    "For example columns without the static detector, or a benign level below zero.",
)
NO_CLASS_SCORES = declare(
    "ATP062",
    ModelError,
    "no output of the model holds class scores",
    "give a model with an output (samples, classes), name one with --output-name, or say what else the model answers"
    " with --output-kind",
    "Attacks are counted by predictions, and the prediction is the arg max of an output with one row of float scores a"
    " sample and two classes or more. Without one, 'compare' compares the values of the outputs. Embeddings (samples,"
    " width) and labels of tokens (samples, tokens, labels) are judged with --output-kind, by what the original answers"
    " without the trigger.",
)
NOTHING_FITTED = declare(
    "ATP061",
    PlanError,
    "there is no hotfix, and without data only a text encoder can be calibrated",
    "give a few hundred clean rows (--calibrate ROWS.npz), fit a hotfix ('atpatch-onnx fit MODEL --debug SET.npz', or"
    " '--clean ROWS.npz' where no trigger is known), or name --detector statistic to use that detector all the same",
    "Without a hotfix, 'patch' calibrates a detector on random tokens. That needs a text encoder: integer ids looked up"
    " in a table, of any length, and maps whose rows all see the same columns. Random images and tables are unlike real"
    " ones, and in a decoder the first tokens get most attention by nature. There a guess may flag every request and"
    " spoil every answer. So a model is refused unless its graph shows this, and nothing is written. Rows given with"
    " --calibrate are enough for any model but a decoder.",
)
NOT_CALIBRATED = declare(
    "ATP063",
    PlanError,
    "the model cannot be calibrated on the rows, or no rows can be made for it",
    "give clean rows with --calibrate ROWS.npz, one array per graph input, or name --detector statistic",
    "To calibrate on random tokens, 'patch' must know what each input of the graph holds: token ids, positions, token"
    " types or a mask. To calibrate on given rows, at least one attention site must have one map per row, with all its"
    " tokens as columns. A text encoder that cannot be calibrated by itself gets the training-free detector"
    " instead, and 'patch' says so.",
)
SOURCE_UNUSABLE = declare(
    "ATP070",
    ModelError,
    "the model to export cannot be loaded",
    "give a folder written by save_pretrained, a hub id that transformers can fetch, or package.module:factory",
    "Folders and hub ids go through transformers' own loader. Code that comes with a repository is never run, and a"
    " model whose weights lack a head is refused, since transformers would fill it with random numbers.",
)
TASK_UNCLEAR = declare(
    "ATP071",
    ModelError,
    "the model does not show its task, or does not fit the given task",
    "name one with --task; 'atpatch-onnx export --help' lists them",
    "The task decides which inputs and outputs the graph has. It is read from the architecture in the model's"
    " configuration.",
)
EXPORT_FAILED = declare(
    "ATP072",
    ModelError,
    "torch's exporter refuses the model",
    "try the other --exporter, the other --attention, or another --opset",
    "The message comes from torch. The two exporters have different gaps, so a model that one refuses often passes the"
    " other.",
)
PARITY_LOST = declare(
    "ATP073",
    ModelError,
    "the exported graph does not compute what torch computes",
    "try the other --exporter or --attention, or raise --tolerance if the difference is acceptable",
    "The graph is run on inputs of other batch sizes and lengths than the traced ones, padded and unpadded, and"
    " compared with torch. This finds an exporter that wrote a fixed length into the graph. Nothing is written.",
    exit_code=1,
)
ADDRESS_UNUSABLE = declare(
    "ATP074",
    ServeError,
    "the server cannot listen on the address",
    "choose another --port or --host, or stop what listens there",
    "By default the server listens only on 127.0.0.1. It has no TLS and no accounts: put a proxy in front of it before"
    " it faces a network.",
)
ARMS_DIFFER = declare(
    "ATP075",
    ServeError,
    "the two models cannot replace each other",
    "serve a model and a patch of that very model",
    "Both arms answer under one name, so inputs and outputs must agree in name, dtype and shape. A patch changes none"
    " of them.",
)
NOT_SERVABLE = declare(
    "ATP076",
    ServeError,
    "the model has an input or output that cannot be served",
    "give the graph plain tensors as inputs and outputs",
    "The Open Inference Protocol carries dense tensors of booleans, numbers and strings. Sequences, maps, optionals,"
    " and bfloat16 and smaller types, which numpy lacks, are not among them.",
)
NOT_DIFFERENTIABLE = declare(
    "ATP082",
    ModelError,
    "no gradient can be taken through the model",
    "invert the trigger on the float32 export from before fusing or quantizing: triggers carry over, fit on the"
    " deployed file",
    "Trigger inversion runs the graph's standard operators in torch and first compares the result with onnxruntime."
    " It does not run fused or quantized operators, or control-flow operators other than If.",
)
COLUMNS_UNCLEAR = declare(
    "ATP084",
    ModelError,
    "it is not clear which columns of the attention maps a trigger or an attribute covers",
    "name them: --patch-size and --class-tokens for images, 'token' in the column description for tables",
    "Columns are found by experiment: what a change of the input moves among the value vectors of the first attention"
    " site. A model that mixes its tokens before the first site, or counts windows instead of samples, hides that.",
)
NO_MODEL_FOLDER = declare(
    "ATP092",
    ModelError,
    "the folder holds no model that onnxruntime-genai, Optimum or transformers.js loads",
    "give a folder with genai_config.json or config.json and its model files, or one .onnx file",
    "What is a model in a folder, and what it is for, is read from genai_config.json (onnxruntime-genai), or from"
    " config.json and the file names that Optimum and transformers.js look for, such as model.onnx,"
    " decoder_model_merged.onnx or onnx/model.onnx. Other .onnx files are patched one by one, as files.",
)
CONFIG_MISFIT = declare(
    "ATP093",
    ModelError,
    "the folder's configuration cannot be read, or names a model file that is not there",
    "complete the folder, or correct the file name in its configuration",
    "genai_config.json must be a JSON object whose parts name model files inside of the folder. A file that is missing"
    " or lies outside of it would leave the new folder without a part of its model.",
)
SIGNATURE_INVALID = declare(
    "ATP094",
    DataError,
    "the signature is not good",
    "get the files and their signature again from where they came, and do not use these",
    "A signature is good where it was made with the key that you trust, and every file that it names is as it was"
    " signed. In a folder no further file may be there. A signature that does not cover the external data of a model"
    " says nothing of its weights, and is refused too.",
    exit_code=1,
)
SIGNATURE_MISSING = declare(
    "ATP095",
    DataError,
    "there is no signature",
    "put the signature there, or ask the sender for one; 'verify' finds it elsewhere with --signature",
    "The signature of a file is FILE.sig next to it, or model.sig in its folder. That of a folder is model.sig inside."
    " Where a signature is demanded, a file without one is refused like one with a bad signature.",
    exit_code=1,
)
KEY_UNUSABLE = declare(
    "ATP096",
    PlanError,
    "the key, the certificate or the identity cannot be used",
    "give PEM files of an elliptic curve (P-256, P-384 or P-521): --key takes the private half to sign, the public half"
    " to verify",
    "Signatures are made and verified by sigstore's package model-signing, whose words the message quotes. The password"
    " of an encrypted key is read from ATPATCH_KEY_PASSWORD. Keyless signing needs a network and an identity provider.",
)
NOT_SIGNABLE = declare(
    "ATP097",
    DataError,
    "a signature cannot cover what is there",
    "change the folder as the message says",
    "A signature is a list of file names and digests. Links to folders, names that are not UTF-8, and empty folders"
    " have no place in it. So 'sign' and 'verify' refuse them, and nothing is taken for signed that is not.",
)
FOLDER_FOREIGN = declare(
    "ATP090",
    ServeError,
    "the output folder holds files that this command did not write",
    "name a new or empty folder, or one that the same 'deploy' command wrote",
    "Files of an earlier run of the same command are replaced; nothing that the command did not write is touched, and"
    " nothing is written outside the folder.",
)
NAME_UNUSABLE = declare(
    "ATP091",
    ServeError,
    "the serving engine does not accept this name or setting",
    "see '--help' of the command for what is allowed",
    "Names become folder names, URLs and Kubernetes objects: lower-case letters, digits and '-'.",
)
