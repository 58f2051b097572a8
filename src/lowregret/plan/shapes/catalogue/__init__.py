"""Public models by name: one JSON file a maker, and what reads them."""
