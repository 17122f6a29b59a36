"""The hotfix file: what is fitted, written and patched in."""
