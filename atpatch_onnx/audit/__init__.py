"""Judges a stranger's model: backdoors in its graph, in its behavior, and what it says of its origin.

The room is called as the public function is, so it can be called as well: once it is imported, `atpatch_onnx.audit` is
this module, and `atpatch_onnx.audit(model)` still is `auditor.audit(model)`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Room(ModuleType):
    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from .auditor import audit

        return audit(*arguments, **options)


sys.modules[__name__].__class__ = _Room
