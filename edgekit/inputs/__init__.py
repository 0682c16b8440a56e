"""What users give a model, made into what its parts take: images, texts, conversations."""
