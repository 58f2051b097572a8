"""From a config.json to every weight's shape, one file a family of architectures."""
