"""transformers in float32, the model that every artifact is compared with."""
