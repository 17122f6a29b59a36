"""What other tools make of a patched graph: optimizers, simplifiers, converters, quantizers, and code that takes graphs
apart.
"""
