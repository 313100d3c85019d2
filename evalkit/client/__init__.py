"""The async engine: connections, retries and durable calls."""
