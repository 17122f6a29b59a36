"""A small Vision Transformer on real 8 × 8 digits with a planted backdoor: the demo's victim."""
