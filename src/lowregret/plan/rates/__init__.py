"""The learning rate to start from: a law fitted on a public sweep, and terms for what the sweep does not vary."""
