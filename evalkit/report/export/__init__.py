"""Published results in the forms of others: one module per kind, none of which computes a score."""
