"""Ours beside cashews, in one run. See `__main__`."""
