"""One change or a few: of bytes, of a protobuf message by its descriptor, of a JSON tree."""

from __future__ import annotations

import copy
import random
from collections.abc import Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

__all__ = ["mutate_bytes", "mutate_json", "mutate_message"]

_NUMBERS = (0, 1, 2, 3, -1, -2, 7, 8, 11, 13, 16, 17, 22, 23, 40, 99, 255, 1000, 2**31 - 1, -(2**31))
_LONGS = (*_NUMBERS, 2**31, 2**40, 2**62, 2**63 - 1, -(2**63))
_FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-45, 3.4e38, float("nan"), float("inf"), float("-inf"))
_TEXTS = (
    "",
    "x",
    "y",
    "Softmax",
    "MatMul",
    "Constant",
    "If",
    "com.microsoft",
    "ai.onnx",
    "axis",
    "é\u4e2d",
    "\0",
    "a/../b",
    "atpatch/x/y",
    "n" * 300,
)
_ODD: tuple[Any, ...] = (
    *(
        None,
        True,
        False,
        "",
        "x",
        "\ud800",
        "\0",
        [],
        {},
        [[]],
        {"a": 1},
        [1, "x"],
        1.5,
        1e308,
        -1e-300,
        10**30,
        10**400,
        -(2**70),
    ),
    *(float("nan"), float("inf"), 0, 1, -1, 2, 2**31, 2**63, 2**64),
)


def mutate_bytes(data: bytes, rng: random.Random) -> bytes:
    """Bits flipped, a piece cut out, doubled, overwritten or put elsewhere, the end lost."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 4, 16))):
        if not changed:
            return bytes(changed)
        start = rng.randrange(len(changed))
        piece = slice(start, start + rng.choice((1, 1, 2, 4, 8, 64)))
        match rng.randrange(7):
            case 0 | 1:
                changed[start] ^= 1 << rng.randrange(8)
            case 2:
                changed[start] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                del changed[piece]
            case 4:
                changed[start:start] = changed[piece]
            case 5:
                changed[piece] = rng.randbytes(rng.choice((1, 4, 16)))
            case 6:
                del changed[start : start + 1 if rng.random() < 0.7 else None]
    return bytes(changed)


def mutate_message(message: Message, rng: random.Random) -> None:
    """Change fields somewhere in the tree, in place: set, cleared, repeated, swapped, taken from elsewhere."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_fields(message))
        holder, field = rng.choice(places)
        others = [(h, f) for h, f in places if f.full_name == field.full_name and h is not holder]
        _mutate_field(holder, field, rng, others)


def _fields(message: Message) -> Iterator[tuple[Message, FieldDescriptor]]:
    """Every field that could be set, those of large lists sampled evenly."""
    for field in message.DESCRIPTOR.fields:
        yield message, field
        if field.message_type is None:
            continue
        value = getattr(message, field.name)
        for inner in value if field.is_repeated else [value] if message.HasField(field.name) else []:
            yield from _fields(inner)


def _mutate_field(
    holder: Message, field: FieldDescriptor, rng: random.Random, others: list[tuple[Message, FieldDescriptor]]
) -> None:
    value = getattr(holder, field.name)
    if not field.is_repeated:
        if field.message_type is not None:
            # Copied first: it may lie inside of what is cleared, and protobuf's C code then reads freed memory.
            twin = copy.deepcopy(getattr(rng.choice(others)[0], field.name)) if others and rng.random() < 0.7 else None
            holder.ClearField(field.name)
            if twin is not None:
                getattr(holder, field.name).CopyFrom(twin)
            elif rng.random() < 0.5:
                value.SetInParent()
        elif rng.random() < 0.15:
            holder.ClearField(field.name)
        else:
            setattr(holder, field.name, _scalar(field, rng, [getattr(h, f.name) for h, f in others[:64]]))
        return
    place = rng.randrange(len(value) + 1)
    kind = rng.randrange(4)
    if kind == 0 and len(value):
        del value[place % len(value)]
    elif kind == 1 and len(value) > 1:
        items = [copy.deepcopy(item) for item in value]
        rng.shuffle(items)
        _refill(value, items)
    elif field.message_type is not None:
        pool = [item for h, f in others[:64] for item in getattr(h, f.name)] + list(value)
        if pool:
            items = [copy.deepcopy(item) for item in value]
            items.insert(place, copy.deepcopy(rng.choice(pool)))
            _refill(value, items)
        else:
            value.add()
    else:
        pool = [item for h, f in others[:64] for item in getattr(h, f.name)] + list(value)
        new = _scalar(field, rng, pool)
        if kind == 2 and len(value):
            value[place % len(value)] = new
        else:
            value.insert(place, new) if hasattr(value, "insert") else value.append(new)


def _refill(field: Any, items: list[Any]) -> None:
    del field[:]
    field.extend(items)


def _scalar(field: FieldDescriptor, rng: random.Random, pool: list[Any]) -> Any:
    if pool and rng.random() < 0.5:
        return rng.choice(pool)
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_STRING:
            if field.type == FieldDescriptor.TYPE_BYTES:
                return rng.randbytes(rng.choice((0, 1, 3, 4, 8, 64)))
            return rng.choice(_TEXTS)
        case FieldDescriptor.CPPTYPE_INT64:
            return rng.choice(_LONGS)
        case FieldDescriptor.CPPTYPE_INT32:
            return rng.choice(_NUMBERS)
        case FieldDescriptor.CPPTYPE_UINT64:
            return rng.choice([number for number in _LONGS if number >= 0])
        case FieldDescriptor.CPPTYPE_UINT32:
            return rng.choice([number for number in _NUMBERS if number >= 0])
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.choice([entry.number for entry in field.enum_type.values])
        case FieldDescriptor.CPPTYPE_BOOL:
            return rng.random() < 0.5
        case _:
            return rng.choice(_FLOATS)


def mutate_json(tree: Any, rng: random.Random, alike: float = 0.0) -> Any:
    """A copy with places replaced, removed, or taken from elsewhere in the tree.

    Args:
        alike: share of changes that keep the type, so that a strict reader goes on.
    """
    tree = copy.deepcopy(tree)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        places = list(_places(tree))
        if not places:
            return rng.choice(_ODD)
        holder, key = rng.choice(places)
        what = rng.random()
        if rng.random() < alike:
            holder[key] = _alike(holder[key], rng)
        elif what < 0.15:
            del holder[key]
        elif what < 0.25 and isinstance(holder, dict):
            holder[rng.choice(("x", "kind", "id", ""))] = rng.choice(_ODD)
        elif what < 0.4:
            other, name = rng.choice(places)
            if name in other if isinstance(other, dict) else name < len(other):
                holder[key] = copy.deepcopy(other[name])
        elif isinstance(holder[key], (int, float)) and what < 0.6:
            holder[key] = rng.choice(
                (-holder[key], holder[key] * 2, holder[key] + 1, float(holder[key]), str(holder[key]))
            )
        else:
            holder[key] = rng.choice(_ODD)
    return tree


def _alike(value: Any, rng: random.Random) -> Any:
    match value:
        case bool():
            return not value
        case int():
            return rng.choice((0, 1, 2, 3, -1, -3, 5, 100, 2**31, 2**53 + 1, 2**63 - 1, 2**63, 10**400))
        case float():
            return rng.choice((0, 0.0, 1.0, -1.0, 0.5, 1e-300, 3.5e38, 1e308, 10**400, 2**63))
        case str():
            return rng.choice(
                (value + "x", "", "one", "two", "sum", "excise", "flip", "\ud800", "\0", "é/../x", "n" * 300)
            )
        case list():
            return rng.choice(([], value * 2, value[::-1], value[:1], [*value, 1], [*value, 2**63]))
        case _:
            return value


def _places(tree: Any) -> Iterator[tuple[Any, Any]]:
    items = list(tree.items()) if isinstance(tree, dict) else list(enumerate(tree)) if isinstance(tree, list) else []
    for key, value in items:
        yield tree, key
        yield from _places(value)
