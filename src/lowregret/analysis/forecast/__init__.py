"""The regret before it is paid for: from the adapters alone, and from pilots of a part of the run."""
