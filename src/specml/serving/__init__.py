"""The server: HTTP in, batches through the bundle's graph, answers out. It works from a bundle alone."""
