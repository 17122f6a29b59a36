"""Error codes of files with rows: data sets, texts, tables, tokenizers, logs. `errors` makes them public."""

from __future__ import annotations

from rewriters.errors import DataError, declare

DATA_MALFORMED = declare(
    "ATP056",
    DataError,
    "a data set is malformed",
    "check names, shapes and dtypes of the arrays in the .npz file",
    "Data sets are .npz files with one array per graph input, sample axis first, plus labels (N,), and for debugging"
    " sets columns (N, K) and pair (N,). Pickled objects are never read.",
)
SAMPLES_UNREADABLE = declare(
    "ATP080",
    DataError,
    "a file of samples, a column description or a pattern cannot be used",
    "check the file against 'atpatch-onnx debugset --help'",
    "Texts are TSV or CSV with a header and a column of whole-number labels; tables are CSV with a column description"
    " in JSON or TOML, or an .npz with the graph's own inputs; patterns are .npy or .png. Fields are never guessed.",
)
TOKENIZER_UNUSABLE = declare(
    "ATP081",
    DataError,
    "the tokenizer cannot be used",
    "give the folder that holds the model's tokenizer.json, or the vocab.txt of a WordPiece model",
    "The tokenizer must be the one the model was trained with, or every column label is wrong. If the graph's embedding"
    " table does not hold its ids, it belongs to another model.",
)
NOTHING_FOUND = declare(
    "ATP083",
    DataError,
    "no debugging set can be made from these rows",
    "check the target class; if it is right, the model does not show this fault",
    "Every row is of the target class, or no prediction changes with the protected attribute, or every one does, so"
    " no row can be clean. Or the trigger sends too few rows to one class, or with --output-kind changes too few"
    " answers: fewer than one in five. Nothing is written.",
    exit_code=1,
)
ROWS_MISFIT = declare(
    "ATP085",
    DataError,
    "the rows are not coded as the model expects",
    "scale, encode and label them as for training",
    "Judged by what the model gets right: with another scale of the pixels it would get many more rows right, or it"
    " gets far fewer right than if it always gave the most frequent answer, or a label is no class of the model. A set"
    " made of such rows would show faults that the model does not have.",
)
LOG_UNREADABLE = declare(
    "ATP087",
    DataError,
    "the decision log cannot be read, or holds no decision",
    "give the file that 'atpatch-onnx serve --log' writes",
    "One JSON object a line; files rotated away from it (FILE.1, FILE.2.gz, ...) are read too. Broken lines are"
    " skipped and counted, but a log in which no line is a decision is refused.",
)
OUTCOMES_UNREADABLE = declare(
    "ATP088",
    DataError,
    "the outcomes cannot be read or joined with the log",
    "give CSV with a header or JSON lines with the fields 'id' or 'unit', and 'label' or 'outcome' or both",
    "'id' is the request id of the log and 'unit' its unit digest. 'label' is the class that would have been right, a"
    " list where the request held several samples; 'outcome' is 1 if what you count followed the request, else 0.",
)
FOREIGN_UNREADABLE = declare(
    "ATP098",
    DataError,
    "a poisoned set of another tool cannot be used",
    "give a record of BackdoorBench with its folder of images, or a CSV file or folder that OpenBackdoor wrote",
    "Of a BackdoorBench record the images bd_test_dataset/<class>/<index>.png and the log are read, of OpenBackdoor the"
    " tables <split>-poison.csv and <split>-clean.csv. Pickled files (attack_result.pt, info.pickle) could run code and"
    " are never opened. Each triggered row needs its clean twin: what differs between the two shows which columns are"
    " the trigger's.",
)
