"""How the law of the learning rate was fitted to the public sweep, and what it gives away on it."""
