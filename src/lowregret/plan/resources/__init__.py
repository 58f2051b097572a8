"""What a training takes of a device: memory, arithmetic, time and money."""
