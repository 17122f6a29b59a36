"""A corpus for the audit of graphs: clean graphs that nobody here wrote, and graphs with a planted backdoor."""
