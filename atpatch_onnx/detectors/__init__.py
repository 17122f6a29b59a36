"""Training of the detectors that need it: arrays of features in, a detector of `rewriters.plan` out.

`features` is plain numpy. Every other module here imports torch (extra `fit`), so import it only where something is trained.
"""

TRAINABLE = ("profile",)
"""Kinds that `fit` can train."""
