"""Evidence: what hotfixes do to the victims, measured on patched graphs in onnxruntime, beside the paper's figures and
other defenses.
"""
