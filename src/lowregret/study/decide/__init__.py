"""A comparison that stops when it is decided: pilots, and then only the trials that can change the decision."""
