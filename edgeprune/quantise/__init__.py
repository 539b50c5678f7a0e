"""Int8 that keeps its accuracy."""
