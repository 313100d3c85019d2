"""What the user writes: schema, YAML loading, overrides and environment references."""
