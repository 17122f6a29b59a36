"""What a patch costs: the table of `make bench`, and patching against model size."""
