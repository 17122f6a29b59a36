"""The price of a patch: latency pair by pair, session load time, peak memory, size on disk."""
