"""The worker service: the product's jobs, run durably."""
