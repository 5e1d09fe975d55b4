"""The product's own migrations, a branch beside the platform's."""
