"""What leaves an engine as files that others read, and comes back: adapters in PEFT's format, whole models, merges."""
