"""The HTTP face of the jobs: background tasks of the guide, lists, progress, cancel and retry."""
