"""What an answer can be kept to: a schema, a choice, an expression, a grammar; checked first, then held."""
