"""Trigger inversion: an unknown trigger searched through the gradients of the graph. Needs torch (extra `fit`)."""
