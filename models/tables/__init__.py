"""Unfair tabular victims: Adult (TabTransformer), COMPAS (the row as text, BERT) and Bank (FT-Transformer), one token a
column.
"""
