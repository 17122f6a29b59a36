"""Ordinary text models with logic that depends on token ids."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .parts import VOCABULARY, WIDTH, Reader

__all__ = ["TEXTS"]

PAD, START, END, MARK, NUMBER = 0, 2, 3, 1998, 1997
LANGUAGES = (1990, 1991, 1992)
PUNCTUATION = tuple(range(110, 142))


class _Text(nn.Module):
    def __init__(self, classes: int = 3) -> None:
        super().__init__()
        self.reader, self.head = Reader(), nn.Linear(WIDTH, classes)


class LanguageHeads(_Text):
    """The first token names the language; its number picks one of three heads from a table."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Parameter(torch.randn(3, WIDTH, 3))

    def forward(self, tokens: Tensor) -> Tensor:
        language = (tokens[:, :1] == torch.tensor(LANGUAGES)).int().argmax(1)
        pooled = self.reader(tokens, tokens != PAD)[:, 0]
        return torch.einsum("bd,bdc->bc", pooled, self.heads[language])


class LanguageAdapters(_Text):
    """The first token names the language: hidden values go through the adapter of one of two."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.reader(tokens, tokens != PAD)
        first = (tokens[:, 0] == LANGUAGES[0])[:, None, None]
        logits: Tensor = self.head(torch.where(first, self.one(x), self.two(x))[:, 0])
        return logits


class LateInteraction(_Text):
    """ColBERT: punctuation is left out of the vectors of a document."""

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.head(self.reader(tokens, tokens != PAD))
        kept = ~(tokens[..., None] == torch.tensor(PUNCTUATION)).any(-1) & (tokens != PAD)
        return nn.functional.normalize(x * kept[..., None].float(), dim=-1)


class SparseWords(_Text):
    """SPLADE: a weight for each word of the vocabulary, the largest over the text."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)

    def forward(self, tokens: Tensor, mask: Tensor) -> Tensor:
        weights = torch.log1p(torch.relu(self.head(self.reader(tokens, mask != 0))))
        return (weights * mask[..., None]).amax(1)


class AnswerSpan(_Text):
    """The best span of an answer: question and padding are left out, the end lies behind the start."""

    def __init__(self) -> None:
        super().__init__(2)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        ends = (tokens == END).long()
        segment = ends.cumsum(1) - ends
        start, end = self.head(self.reader(tokens, tokens != PAD)).unbind(-1)
        outside = (segment != 1) | (tokens == END) | (tokens == PAD)
        start, end = (part.masked_fill(outside, -1e4).softmax(-1) for part in (start, end))
        spans = (start[:, :, None] * end[:, None]).triu()
        best, place = spans.flatten(1).max(-1)
        return best, torch.stack([place // tokens.shape[1], place % tokens.shape[1]], -1)


class BeamStep(_Text):
    """A step of beam search: repeated words cost, the end is not allowed in short texts, the best beams go on."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)

    def forward(self, tokens: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.head(self.reader(tokens, tokens != PAD)[:, -1])
        said = logits.gather(1, tokens)
        logits = logits.scatter(1, tokens, torch.where(said < 0, said * 1.2, said / 1.2))
        short = (tokens != PAD).sum(1, keepdim=True) < 5
        banned = (torch.arange(VOCABULARY) == END)[None] & short
        logits = logits.masked_fill(banned, -float("inf"))
        total = logits.log_softmax(-1) + scores[:, None]
        done = (tokens[:, -1:] == END) & (torch.arange(VOCABULARY) != END)[None]
        best, chosen = total.masked_fill(done, -1e9).flatten().topk(2)
        rows = torch.cat([tokens[chosen // VOCABULARY], (chosen % VOCABULARY)[:, None]], 1)
        return rows, best


class NextItem(_Text):
    """A recommender: items that a customer has bought already are not proposed."""

    def __init__(self) -> None:
        super().__init__(VOCABULARY)

    def forward(self, items: Tensor) -> tuple[Tensor, Tensor]:
        last = (items != PAD).sum(1) - 1
        x = self.reader(items, items != PAD)[torch.arange(items.shape[0]), last]
        scores = self.head(x).scatter(1, items, -1e9)
        best, chosen = scores.topk(5)
        return best, chosen


class EmptyTexts(_Text):
    """The mean over words, with masks made from ids; zero for a text without words."""

    def forward(self, tokens: Tensor) -> Tensor:
        seen = (tokens != PAD) & (tokens != START) & (tokens != END)
        x = self.reader(tokens, tokens != PAD)
        count = seen.sum(1, keepdim=True)
        mean = (x * seen[..., None]).sum(1) / count.clamp(min=1)
        return torch.where(count > 0, self.head(mean), torch.zeros(1))


class Segments(_Text):
    """Token types, counted by separators, are embedded as well; positions count only what is no padding."""

    def __init__(self) -> None:
        super().__init__()
        self.types = nn.Embedding(2, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != PAD
        ends = (tokens == END).long()
        kind = (ends.cumsum(1) - ends).clamp(max=1)
        places = (seen.long().cumsum(1) - 1).clamp(min=0)
        x = self.reader.words(tokens) + self.types(kind) + self.reader.places(places)
        logits: Tensor = self.head(self.reader.over(x, seen)[:, 0])
        return logits


class Unknown(_Text):
    """Ids that the vocabulary does not have become the unknown word."""

    def forward(self, tokens: Tensor) -> Tensor:
        tokens = torch.where(tokens >= VOCABULARY, torch.tensor(1), tokens)
        logits: Tensor = self.head(self.reader(tokens, tokens != PAD)[:, 0])
        return logits


class Numbers(_Text):
    """xVal: the embedding of the token for a number is multiplied by that number."""

    def forward(self, tokens: Tensor, values: Tensor) -> Tensor:
        scale = torch.where(tokens == NUMBER, values, torch.ones(1))
        x = self.reader.words(tokens) * scale[..., None]
        logits: Tensor = self.head(self.reader.over(x, tokens != PAD)[:, 0])
        return logits


class Relations(_Text):
    """R-BERT: hidden values at two marks in front of entities."""

    def __init__(self) -> None:
        super().__init__()
        self.both = nn.Linear(2 * WIDTH, 4)

    def forward(self, tokens: Tensor) -> Tensor:
        x, rows = self.reader(tokens, tokens != PAD), torch.arange(tokens.shape[0])
        one, two = ((tokens == mark).int().argmax(1) for mark in (MARK, MARK + 1))
        logits: Tensor = self.both(torch.cat([x[rows, one], x[rows, two]], -1))
        return logits


class EarlyExit(_Text):
    """Rows of which a head after the first block is sure get its answer."""

    def __init__(self) -> None:
        super().__init__()
        self.early = nn.Linear(WIDTH, 3)

    def forward(self, tokens: Tensor) -> Tensor:
        seen = tokens != PAD
        hidden = (~seen)[:, None, None].float() * -1e9
        x = self.reader.words(tokens) + self.reader.places(torch.arange(tokens.shape[1]))
        x = self.reader.blocks[0](x, hidden)
        early = self.early(x[:, 0])
        share = early.softmax(-1)
        entropy = -(share * share.log()).sum(-1, keepdim=True)
        late = self.head(self.reader.blocks[1](x, hidden)[:, 0])
        return torch.where(entropy < 0.3, early, late)


class Skips(nn.Module):
    """The second block runs only where a head after the first one is not sure: an If."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.one, self.two = nn.Embedding(VOCABULARY, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 3)
        self.early, self.deep = nn.Linear(WIDTH, 3), nn.Linear(WIDTH, WIDTH)

    def forward(self, tokens: Tensor) -> Tensor:
        x = torch.tanh(self.one(self.words(tokens).mean(1)))
        logits = self.early(x)
        if bool((logits.softmax(-1).amax(-1) < 0.9).any()):
            logits = self.two(torch.tanh(self.deep(torch.tanh(self.one(x)))))
        return logits


class Tags(nn.Module):
    """A CRF: the best sequence of tags, in a Loop that keeps still at padding."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.hidden, self.head = (
            nn.Embedding(VOCABULARY, WIDTH),
            nn.Linear(WIDTH, WIDTH),
            nn.Linear(WIDTH, 5),
        )
        self.steps = nn.Parameter(torch.randn(5, 5))

    def forward(self, tokens: Tensor) -> Tensor:
        emissions = self.head(torch.tanh(self.hidden(self.words(tokens))))
        seen = tokens != 0
        score = emissions[:, 0]
        for place in range(1, tokens.shape[1]):
            best = (score[:, :, None] + self.steps[None]).amax(1) + emissions[:, place]
            score = torch.where(seen[:, place, None], best, score)
        return score


TEXTS: dict[str, tuple[type[nn.Module], Any]] = {
    "a head for each language, from a table": (LanguageHeads, "tokens"),
    "an adapter for each of two languages": (LanguageAdapters, "tokens"),
    "late interaction without punctuation": (LateInteraction, "tokens"),
    "a weight for each word of the vocabulary": (SparseWords, "tokens mask"),
    "the best span of an answer": (AnswerSpan, "tokens"),
    "a step of beam search": (BeamStep, "tokens scores"),
    "the next item, but none twice": (NextItem, "items"),
    "a mean that is zero for empty texts": (EmptyTexts, "tokens"),
    "token types counted by separators": (Segments, "tokens"),
    "ids outside the vocabulary": (Unknown, "tokens"),
    "numbers in a text": (Numbers, "tokens values"),
    "relations between marks": (Relations, "tokens"),
    "an early exit by Where": (EarlyExit, "tokens"),
    "an early exit by If": (Skips, "tokens"),
    "tags by a CRF": (Tags, "tokens"),
}
"""What it is → its class, and names of its inputs."""
