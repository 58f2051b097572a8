"""From the turns of a chat to token ids and the mask of what the loss counts."""
