"""Reading a graph: what the finder knows about shapes, axes, products and names before it calls something a site."""
