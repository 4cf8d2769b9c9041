"""Systems that are scored on evaluation sets: our bundles, other models, and predictions in a file."""
