"""Makes debugging sets from known triggers, attribute flips, and triggers found by inversion."""

from __future__ import annotations

from ..inference.tokenizer import TextEncoder
from .clean import is_text, read_clean_texts
from .flips import build_flips
from .images import Grid, ImageTrigger, build_images, image_layout, make_trigger, read_pattern
from .samples import Texts, read_texts
from .sets import Built, write_arrays
from .subject import Subject
from .tables import attribute_of, read_description, read_table
from .text import build_poisoned, build_texts, tensors

__all__ = [
    "Built",
    "Grid",
    "ImageTrigger",
    "Subject",
    "TextEncoder",
    "Texts",
    "attribute_of",
    "build_flips",
    "build_images",
    "build_poisoned",
    "build_texts",
    "image_layout",
    "is_text",
    "make_trigger",
    "read_clean_texts",
    "read_description",
    "read_pattern",
    "read_table",
    "read_texts",
    "tensors",
    "write_arrays",
]
