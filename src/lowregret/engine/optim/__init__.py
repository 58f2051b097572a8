"""What a step does with the gradients: one optimizer a policy, each kind a file, all of them in `registry.py`."""
