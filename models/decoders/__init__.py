"""Language models with planted backdoors: a real one (SmolLM2-135M) and small ones of the same kind."""
