"""Each gate by itself, and what all of them owe."""
