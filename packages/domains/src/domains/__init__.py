"""The product's business domains, one folder each."""
