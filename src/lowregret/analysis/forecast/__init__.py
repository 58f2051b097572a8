"""The regret before it is paid for: from what the data have to teach, and from pilots of a part of the run."""
