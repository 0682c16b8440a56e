"""What several verbs share; no verb stands here."""
