"""The migrations of the bench product."""
