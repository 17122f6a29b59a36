"""What changes a graph: patch, second pass, controls, telemetry, and the stamp that lets a patch be undone."""
