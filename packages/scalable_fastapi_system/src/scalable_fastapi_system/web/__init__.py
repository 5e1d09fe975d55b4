"""The HTTP side that knows no domain: one ASGI pass, one envelope, one way to fail, health, limits."""
