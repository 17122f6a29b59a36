"""The bill of materials of a patched model: CycloneDX 1.6, with the original and the hotfix as its pedigree."""
