"""Trigger inversion: searches an unknown trigger with the gradients of the graph. Needs torch (extra `fit`)."""
