"""What healing keys and values does to backdoored language models: in torch, and in patched graphs that generate."""
