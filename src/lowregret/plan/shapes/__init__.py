"""Every weight of a model by its name, without loading one: folders, GGUF headers, the catalogue; and its adapters."""
