"""Chaos: real processes, real stores, twenty ways to disturb them, and a checker that believes none of them."""
