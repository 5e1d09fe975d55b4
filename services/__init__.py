"""The composition roots: each service's start, and the operators' command line."""
