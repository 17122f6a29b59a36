"""The nodes that are inserted at a site: detectors, gate, redistribution."""
