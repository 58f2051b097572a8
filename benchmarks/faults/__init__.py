"""A fault at every file operation of a run, and what the same command makes of it afterwards."""
