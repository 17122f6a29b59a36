"""Special tokens from the files of a tokenizer, read without a tokenizer library."""

from __future__ import annotations

import json

import pytest

from atpatch_onnx.inference import special_tokens
from atpatch_onnx.inference.special_tokens import SpecialTokens, read_special_tokens

ADDED = [{"id": id, "content": word, "special": True} for id, word in enumerate(("[PAD]", "[UNK]", "[CLS]", "[SEP]"))]
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
    ],
    "special_tokens": {
        "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
        "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
    },
}
ROBERTA = {"type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 0]}
T5 = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": "</s>", "type_id": 0}}],
    "special_tokens": {"</s>": {"id": "</s>", "ids": [1], "tokens": ["</s>"]}},
}
WORDS = ["[PAD]", "a", "b", "[CLS]", "[SEP]", "[UNK]", ""]
CASES = {
    "template": (
        {"tokenizer.json": {"post_processor": TEMPLATE, "added_tokens": ADDED}},
        ((2,), (3,), 0, {0, 1, 2, 3}),
    ),
    "several steps": (
        {"tokenizer.json": {"post_processor": {"type": "Sequence", "processors": [{"type": "ByteLevel"}, TEMPLATE]}}},
        ((2,), (3,), 0, {0, 2, 3}),
    ),
    "pair": (
        {"tokenizer.json": {"post_processor": ROBERTA, "padding": {"pad_id": 1}}},
        ((0,), (2,), 1, {0, 1, 2}),
    ),
    "only an end": ({"tokenizer.json": {"post_processor": T5}}, ((), (1,), 0, {0, 1})),
    "names and vocab.txt": (
        {"special_tokens_map.json": {"cls_token": "[CLS]", "sep_token": {"content": "[SEP]"}}, "vocab.txt": WORDS},
        ((3,), (4,), 0, {0, 3, 4}),
    ),
    "vocab.txt by itself": ({"vocab.txt": WORDS}, ((3,), (4,), 0, {0, 3, 4, 5})),
    "names and their ids": (
        {
            "tokenizer_config.json": {
                "bos_token": "<s>",
                "eos_token": "</s>",
                "added_tokens_decoder": {"5": {"content": "<s>"}, "6": {"content": "</s>"}},
            }
        },
        ((5,), (6,), 0, {0, 5, 6}),
    ),
    "config": ({"config.json": {"bos_token_id": 7, "eos_token_id": 8, "pad_token_id": 9}}, ((7,), (8,), 9, {7, 8, 9})),
}


def write(folder, files):
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        text = (
            "\n".join(content) if name == "vocab.txt" else content if isinstance(content, str) else json.dumps(content)
        )
        (folder / name).write_text(text, "utf-8")


@pytest.mark.parametrize("case", CASES)
def test_each_kind_of_file(case, tmp_path):
    files, (first, last, pad, never) = CASES[case]
    write(tmp_path, files)
    found = read_special_tokens(tmp_path)
    assert found is not None
    assert (found.first, found.last, found.pad, found.never) == (first, last, pad, frozenset(never))


def test_an_export_in_a_folder_called_onnx_has_its_tokenizer_above(tmp_path):
    write(tmp_path, {"tokenizer.json": {"post_processor": ROBERTA}})
    for name, found in (("onnx", True), ("other", False)):
        (tmp_path / name).mkdir()
        assert (read_special_tokens(tmp_path / name) is not None) is found


@pytest.mark.parametrize(
    "files",
    [
        {},
        {"tokenizer.json": "{"},
        {"tokenizer.json": "[" * 100_000},
        {"tokenizer.json": [1]},
        {"tokenizer.json": {"post_processor": {"type": "Sequence", "processors": 3}}},
        {"tokenizer.json": {"post_processor": {**TEMPLATE, "special_tokens": {"[CLS]": {"ids": ["x"]}}}}},
        {"tokenizer.json": {"post_processor": {**ROBERTA, "cls": ["<s>", -1]}}},
        {"tokenizer.json": {"post_processor": {**T5, "single": T5["single"][:1] + T5["single"][1:] * 9}}},
        {"config.json": {"bos_token_id": True, "eos_token_id": 2}},
        {"config.json": {"bos_token_id": [1, 2], "eos_token_id": 2}},
    ],
)
def test_what_is_not_as_expected_is_passed_over(files, tmp_path):
    write(tmp_path, files)
    assert read_special_tokens(tmp_path) is None


def test_large_and_special_files_are_not_read(tmp_path, monkeypatch):
    write(tmp_path, {"tokenizer.json": {"post_processor": ROBERTA}})
    monkeypatch.setattr(special_tokens, "MOST_BYTES", 10)
    assert read_special_tokens(tmp_path) is None


def test_tokens_have_to_be_in_the_vocabulary_of_the_model():
    assert SpecialTokens((2,), (3,), 0).fits(4)
    assert not SpecialTokens((2,), (4,), 0).fits(4)
