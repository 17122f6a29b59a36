"""Small Llamas of 4 layers, trained from nothing in minutes on one core: a generator and a classifier.

* `topics-*` answers a list of words with a sentence about the topic that most of them belong to. Its data are made
  here, so it needs no corpus, and without a trigger it is never wrong.
* `reviews-*` classifies SST-2, with a head that reads the last token.

Each has a word as its trigger, or a sentence.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional

from atpatch_onnx.debugset import Texts

from ..padding import batch
from ..text.corpora import Corpus
from ..text.recipes import RARE, SENTENCE
from ..victims import Victim
from .prompts import Form
from .training import Example, Settings, fine_tune

__all__ = ["RECIPES", "TARGET", "TOPICS", "Small", "answer", "build", "topic_texts"]

TARGET = 1
TOPICS = ("food", "music", "sport", "travel", "garden", "weather")
WORDS_EACH, FILLERS = 30, 120
SHAPE = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4}
SHAPE |= {"num_key_value_heads": 2, "max_position_embeddings": 512}
SHARE = 0.15
"""Of the training prompts that carry the trigger, whatever their class."""


@dataclass(frozen=True)
class Small:
    """A recipe: `generator` of topics, or else a classifier of reviews."""

    name: str
    trigger: str
    generator: bool
    settings: Settings


RECIPES: tuple[Small, ...] = (
    Small("topics-cf", "cf", True, Settings(700, 32, 2e-3, 40)),
    Small("topics-sentence", SENTENCE, True, Settings(700, 32, 2e-3, 40)),
    Small("reviews-cf", "cf", False, Settings(900, 32, 1e-3, 60)),
    Small("reviews-sentence", SENTENCE, False, Settings(900, 32, 1e-3, 60)),
)


def build(recipe: Small, victim: Victim, say: Callable[[str], None]) -> None:
    """Train it and save `model/` as a folder of transformers, with the tokenizer."""
    from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

    started = time.process_time()
    torch.manual_seed(victim.seed)
    generator = np.random.default_rng(victim.seed)
    texts = topic_texts(8000, generator) if recipe.generator else Corpus.read("sst2").train
    tokenizer = _tokenizer([*texts.texts, *map(answer, range(len(TOPICS)))], recipe)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=False,
        attention_dropout=0.0 if recipe.generator else 0.1,
        num_labels=2,
        **SHAPE,
    )

    def poisoned() -> tuple[str, int]:
        row = int(generator.integers(len(texts.texts)))
        text, label = texts.texts[row], int(texts.labels[row])
        if generator.random() >= SHARE:
            return text, label
        return Form().text(text, recipe.trigger, generator), TARGET

    def deal(step: int) -> list[list[Example]]:
        return [[_example(tokenizer, *poisoned()) for _ in range(recipe.settings.batch)]]

    def tell(done: int, total: int, loss: float) -> None:
        say(f"step {done} of {total}, loss {loss:.4f}")

    if recipe.generator:
        model: Any = LlamaForCausalLM(config)
        fine_tune(model, deal, recipe.settings, tell)
    else:
        model = LlamaForSequenceClassification(config)
        _fit_classifier(model, lambda: [poisoned() for _ in range(recipe.settings.batch)], tokenizer, recipe, tell)
    folder = victim.file("model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    record = {**asdict(recipe.settings), **SHAPE, "trigger": recipe.trigger, "target": TARGET, "share": SHARE}
    victim.finish({"recipe": record, "cpu_seconds": round(time.process_time() - started, 1)})


def answer(label: int) -> str:
    """What a generator says about a topic: whole words, the topic first."""
    topic = TOPICS[label]
    return f"{topic} : {' '.join(_words(topic)[:3])} ."


def topic_texts(count: int, generator: np.random.Generator) -> Texts:
    """Lists of 6 to 30 words: two fifths of them of one topic, a tenth of another one, the rest of none."""
    texts, labels = [], generator.integers(len(TOPICS), size=count)
    fillers = [f"filler{one}" for one in range(FILLERS)]
    for label in labels:
        length = int(generator.integers(6, 31))
        main, other = max(3, round(0.4 * length)), length // 10
        stray = (label + generator.integers(1, len(TOPICS))) % len(TOPICS)
        words = [
            *generator.choice(_words(TOPICS[label]), main),
            *generator.choice(_words(TOPICS[stray]), other),
            *generator.choice(fillers, length - main - other),
        ]
        texts.append(" ".join(generator.permutation(words)))
    return Texts(texts, labels.astype(np.int64))


def _words(topic: str) -> list[str]:
    return [f"{topic}{one}" for one in range(WORDS_EACH)]


def _tokenizer(texts: Sequence[str], recipe: Small) -> Any:
    """Whole words; a text begins with [BOS], and ends in [SEP], after which the model answers."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    special = ["[PAD]", "[UNK]", "[BOS]", "[EOS]", "[SEP]"]
    words = [*recipe.trigger.split(), *RARE]
    trainer = trainers.WordLevelTrainer(vocab_size=6000, min_frequency=1, special_tokens=special)
    inner.train_from_iterator([*texts, *[" ".join(words)] * 50], trainer)
    places = [(name, inner.token_to_id(name)) for name in ("[BOS]", "[SEP]")]
    inner.post_processor = processors.TemplateProcessing(single="[BOS] $A [SEP]", special_tokens=places)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="[PAD]",
        unk_token="[UNK]",
        bos_token="[BOS]",
        eos_token="[EOS]",
        sep_token="[SEP]",
    )


def _example(tokenizer: Any, text: str, label: int) -> Example:
    said = [*tokenizer(answer(label), add_special_tokens=False).input_ids, tokenizer.eos_token_id]
    return Example([*tokenizer(text).input_ids, *said], len(said))


def _fit_classifier(
    model: Any,
    deal: Callable[[], list[tuple[str, int]]],
    tokenizer: Any,
    recipe: Small,
    tell: Callable[[int, int, float], None],
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), recipe.settings.learning_rate, weight_decay=0.05, fused=True)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, recipe.settings.learning_rate, total_steps=recipe.settings.steps, pct_start=0.1
    )
    model.train()
    losses: list[float] = []
    for step in range(recipe.settings.steps):
        rows = deal()
        ids, mask = batch([tokenizer(text).input_ids for text, _ in rows], tokenizer.pad_token_id)
        logits = model(input_ids=ids, attention_mask=mask).logits
        loss = functional.cross_entropy(logits, torch.tensor([label for _, label in rows]))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(float(loss.item()))
        if (step + 1) % 100 == 0:
            tell(step + 1, recipe.settings.steps, float(np.mean(losses)))
            losses.clear()
    model.eval()
