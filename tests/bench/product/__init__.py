"""A product with one domain, written as a user of the platform writes one. It is what the bench measures."""
