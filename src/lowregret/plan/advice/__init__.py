"""What to train and why: bits of the data against bits of an adapter, the choice, and what to beware of."""
