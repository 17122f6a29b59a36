"""Shows what a model is, where its attention sites are, and how two models differ."""
