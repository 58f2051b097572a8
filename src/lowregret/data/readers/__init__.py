"""Where rows come from: one file a format, and a registry that finds the reader of a source."""
