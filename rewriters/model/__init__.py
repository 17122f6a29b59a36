"""Reads, checks, walks and writes models, as files and as protos."""
