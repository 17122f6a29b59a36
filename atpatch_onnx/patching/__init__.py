"""Puts a hotfix or a detector into a model, and takes it out again."""
