"""What a patch costs: latency pair by pair, session load time, peak memory, size on disk."""
