"""What is inserted at a site, written operator by operator: detectors, gate, redistribution."""
