"""A model as a file and as a proto: read, checked, walked, written."""
