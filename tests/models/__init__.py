"""A package of a user's own, for the candidate ``custom``."""
