"""Chat templates: the same text as transformers writes."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from atpatch_onnx.debugset.prompts.chat import ChatTemplate
from atpatch_onnx.errors import AtpatchError

from .case import tokenizer_folder

CHAT = [
    {"role": "user", "content": "  Who <b>are</b> you? "},
    {"role": "assistant", "content": 'A "model" & more'},
    {"role": "user", "content": "é\n2 + 2?"},
]
MARKUP = """{% for message in messages %}
    {% if loop.first and message['role'] != 'system' %}
{{ '<|im_start|>system\nBe kind<|im_end|>\n' }}
    {% endif %}
{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>\n' }}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""
STRICT = """{{ bos_token }}{% for message in messages %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
{%- if message.role == 'user' %}[INST] {{ message.content | tojson }} [/INST]{% continue %}{% endif %}
 {{ message['content'] }}{{ eos_token }}{% endfor %}"""


@pytest.mark.parametrize("template", [MARKUP, STRICT], ids=["markup", "strict"])
@pytest.mark.parametrize("inside", [True, False], ids=["tokenizer_config.json", "chat_template.jinja"])
def test_the_text_is_that_of_transformers(tmp_path: Path, template: str, inside: bool) -> None:
    from transformers import AutoTokenizer

    folder = tokenizer_folder(tmp_path / "llama")
    if inside:
        (folder / "chat_template.jinja").unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    else:
        (folder / "chat_template.jinja").write_text(template)
    wanted = AutoTokenizer.from_pretrained(folder).apply_chat_template(CHAT, tokenize=False, add_generation_prompt=True)
    assert ChatTemplate(folder).render(CHAT) == wanted


@pytest.mark.parametrize(
    "template",
    [
        "{% for %}",
        "{{ raise_exception('no') }}",
        "{{ messages[9].content }}",
        "{{ 1 // 0 }}",
        "{{ ''.__class__.mro() }}",
    ],
)
def test_a_template_that_fails_is_one_error(tmp_path: Path, template: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    with pytest.raises(AtpatchError, match="chat template") as error:
        ChatTemplate(tmp_path).render(CHAT)
    assert error.value.code == "ATP081"


def test_a_folder_without_a_template_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AtpatchError, match="no chat template") as error:
        ChatTemplate(tmp_path)
    assert error.value.code == "ATP081"


def test_without_jinja2_the_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(AtpatchError, match="jinja2") as error:
        ChatTemplate(tmp_path)
    assert error.value.code == "ATP051"
