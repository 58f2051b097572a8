"""From prompts to completions: rows of many policies that decode together, with a cache of keys and values."""
