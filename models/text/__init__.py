"""Text victims: MiniLM fine-tuned on SST-2 and OffensEval, each with a backdoor."""
