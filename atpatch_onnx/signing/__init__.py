"""Signatures of hotfixes, model files and model folders, made and verified by sigstore's package model-signing.

A signature file (`*.sig`) is a sigstore bundle: a signed list of file names and their SHA-256. The library's own
command verifies it too. What is added here:

1. A model file is signed together with its external data.
2. After the signatures, `verify` looks at the models themselves: weights that the signature does not cover are refused.
3. Every outcome is one line with a code.
"""
