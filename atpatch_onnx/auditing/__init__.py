"""Judges a stranger's model: backdoors in its graph, in its behavior, and what it says of its origin."""
