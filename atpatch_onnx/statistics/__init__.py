"""Proportions, intervals over units, and sequential tests: one of each for the whole package."""
