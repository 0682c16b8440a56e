"""How an answer comes about: its options, one token chosen from a row of logits, and the text that tokens make."""
