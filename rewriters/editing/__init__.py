"""Everything that changes a graph: patch, second pass, controls, telemetry, and the stamp for undoing a patch."""
