"""Torch modules that give a model positional tensors as arguments, because exporters cannot handle dictionaries, caches
and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Cached", "CachedDecoder", "Decoder", "Keyword", "Plain"]


class Keyword(nn.Module):
    """A Hugging Face model: tensors go in under their names, the named outputs come out."""

    def __init__(self, inner: nn.Module, inputs: Sequence[str], outputs: Sequence[str], **fixed: Any) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._outputs, self._fixed = tuple(inputs), tuple(outputs), fixed

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = self.inner(**dict(zip(self._inputs, tensors, strict=True)), **self._fixed, return_dict=True)
        return tuple(result[name] for name in self._outputs)


class Decoder(nn.Module):
    """The decoder of an encoder-decoder: target tokens and encoder states in, scores of the next token out."""

    def __init__(self, inner: nn.Module, inputs: Sequence[str]) -> None:
        super().__init__()
        self.inner = inner
        self._inputs = tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        from transformers.modeling_outputs import BaseModelOutput

        given = dict(zip(self._inputs, tensors, strict=True))
        renamed = {
            "decoder_input_ids": given["input_ids"],
            "decoder_attention_mask": given["attention_mask"],
            "encoder_outputs": BaseModelOutput(last_hidden_state=given["encoder_hidden_states"]),
        }
        if "encoder_attention_mask" in given:
            renamed["attention_mask"] = given["encoder_attention_mask"]
        return (self.inner(**renamed, use_cache=False, return_dict=True).logits,)


class Cached(nn.Module):
    """A causal language model that takes the keys and values of earlier tokens and returns them with those of the new
    ones.
    """

    def __init__(self, inner: nn.Module, inputs: Sequence[str], layers: int) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._layers = tuple(inputs), layers

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        plain = len(tensors) - 2 * self._layers
        cache = _cache(tensors[plain:])
        given = dict(zip(self._inputs[:plain], tensors[:plain], strict=True))
        result = self.inner(**given, past_key_values=cache, use_cache=True, return_dict=True)
        present = [tensor for layer in result.past_key_values.layers for tensor in (layer.keys, layer.values)]
        return (result.logits, *present)


class CachedDecoder(nn.Module):
    """The decoder of an encoder-decoder with its cache: the first step, which returns all keys and values, or a later
    one, which takes them and returns those of the decoder's own tokens.

    Args:
        past: whether it is a later step. Its inputs are per layer the decoder's keys and values, then the encoder's.
    """

    def __init__(self, inner: nn.Module, inputs: Sequence[str], layers: int, past: bool) -> None:
        super().__init__()
        self.inner = inner
        self._inputs, self._layers, self._past = tuple(inputs), layers, past

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        from transformers.cache_utils import EncoderDecoderCache
        from transformers.modeling_outputs import BaseModelOutput

        given = dict(zip(self._inputs, tensors, strict=True))
        kept = [tensor for name, tensor in given.items() if name.startswith("past_key_values.")]
        own = [tensor for index, tensor in enumerate(kept) if index % 4 < 2]
        crossed = [tensor for index, tensor in enumerate(kept) if index % 4 >= 2]
        cache: Any = EncoderDecoderCache(_cache(own), _cache(crossed))
        cache.is_updated = dict.fromkeys(range(self._layers), self._past)
        tokens = given["input_ids"]
        before = own[0].shape[2] if self._past else 0
        states = given.get("encoder_hidden_states")
        if states is None:  # a later step reads only their keys and values
            config: Any = self.inner.config
            states = crossed[0].new_zeros((tokens.shape[0], crossed[0].shape[2], config.hidden_size))
        result = self.inner(
            encoder_outputs=BaseModelOutput(last_hidden_state=states),
            attention_mask=given.get("encoder_attention_mask"),
            decoder_input_ids=tokens,
            # Without it transformers looks for packed sequences.
            decoder_attention_mask=tokens.new_ones((tokens.shape[0], before + tokens.shape[1])),
            past_key_values=cache,
            use_cache=True,
            return_dict=True,
        )
        both = result.past_key_values
        caches = [both.self_attention_cache.layers, *([] if self._past else [both.cross_attention_cache.layers])]
        layers = zip(*caches, strict=True)
        return (result.logits, *(tensor for layer in layers for one in layer for tensor in (one.keys, one.values)))


def _cache(tensors: Sequence[Tensor]) -> Any:
    """A cache that holds the given keys and values as they are; `DynamicCache.update` would append them to an empty
    tensor of rank 1.
    """
    from transformers.cache_utils import DynamicCache, DynamicLayer

    cache: Any = DynamicCache()
    for keys, values in zip(tensors[::2], tensors[1::2], strict=True):
        layer: Any = DynamicLayer()  # type: ignore[no-untyped-call]
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


class Plain(nn.Module):
    """Any module: a tensor, a sequence or a mapping of tensors out, made a tuple.

    Args:
        inputs: names for keyword arguments, None to pass by position.
    """

    def __init__(self, inner: nn.Module, inputs: Sequence[str] | None) -> None:
        super().__init__()
        self.inner = inner
        self._inputs = None if inputs is None else tuple(inputs)

    def forward(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        result = (
            self.inner(*tensors)
            if self._inputs is None
            else self.inner(**dict(zip(self._inputs, tensors, strict=True)))
        )
        return tuple(self.named(result).values())

    @staticmethod
    def named(result: Any) -> dict[str, Tensor]:
        """The tensors of a result under the names that the graph's outputs get.

        Raises TypeError where it holds anything else.
        """
        if isinstance(result, Tensor):
            return {"output": result}
        if isinstance(result, Mapping):
            named = {str(name): value for name, value in result.items() if value is not None}
        elif isinstance(result, (tuple, list)):
            named = {f"output_{index}": value for index, value in enumerate(result)}
        else:
            raise TypeError(f"the module returns a {type(result).__name__}, not tensors")
        if not named or not all(isinstance(value, Tensor) for value in named.values()):
            raise TypeError("the module returns something else than tensors")
        return named
