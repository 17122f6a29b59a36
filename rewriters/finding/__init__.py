"""Reading a graph: the finder collects shapes, axes, products and names, and decides which operators are sites."""
