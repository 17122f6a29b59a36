"""From a torch or Hugging Face model to an ONNX graph that patches well, checked against torch.

Needs the extra `export`.
"""
