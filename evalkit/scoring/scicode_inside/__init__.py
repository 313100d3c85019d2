"""Python that runs in SciCode's sandbox: read as text here, and never imported by evalkit."""
