"""From batches to log-probabilities: how rows are laid out, attended and unembedded in one pass of the base."""
