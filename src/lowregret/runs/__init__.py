"""The run folder: its file names, the shapes of its records, its lock, and how it is written and read. Torch-free."""
