"""Torch modules that give a model positional tensors as arguments, because exporters cannot handle dictionaries, caches
and defaults.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

__all__ = ["Cached", "Decoder", "Keyword", "Plain"]


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
