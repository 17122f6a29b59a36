"""Victim models: how each is built, attacked, fitted and judged.

Nothing in `atpatch_onnx` or `rewriters` imports this package.
"""
