"""`python -m atpatch_onnx`."""

from .cli import main

main()
