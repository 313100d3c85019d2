"""One module per benchmark, and the registry that finds them by entry point."""
