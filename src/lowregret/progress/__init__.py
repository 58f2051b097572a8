"""What a user sees while something runs: on a terminal, in a notebook, and as plain lines elsewhere."""
