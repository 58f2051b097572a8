"""The one training loop for both methods and both objectives, its checkpoints, and a run of one trial."""
