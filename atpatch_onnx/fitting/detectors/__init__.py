"""Training of the detectors that need it: arrays of features in, a detector of `rewriters.plan` out.

`features` and `oneclass` are plain numpy. The other modules import torch (extra `fit`), so import them only where
something is trained.
"""

LABELED = ("profile", "cnn", "static")
"""Kinds that learn from labeled columns."""
LABEL_FREE = ("oneclass", "statistic")
"""Kinds that learn from clean rows alone."""
TRAINABLE = LABELED + LABEL_FREE
"""Kinds that `fit` can train."""
