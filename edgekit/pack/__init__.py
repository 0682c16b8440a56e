"""From an artifact to a machine far away: signed bundles that install without a network, update and roll back."""
