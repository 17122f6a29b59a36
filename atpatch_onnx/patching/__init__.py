"""A model with a hotfix or a detector patched in, and undone."""
