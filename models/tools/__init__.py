"""What other tools make of a patched graph: optimisers, simplifiers, converters, quantisers, and code that takes graphs
apart.
"""
