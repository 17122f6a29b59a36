"""Files with which other engines serve original and patched: Triton, KServe, Ray Serve.

Each command also says how to go on.
"""

from __future__ import annotations

from .folder import Deployed
from .kserve import deploy_kserve
from .ray import deploy_ray
from .triton import deploy_triton

__all__ = ["Deployed", "deploy_kserve", "deploy_ray", "deploy_triton"]
