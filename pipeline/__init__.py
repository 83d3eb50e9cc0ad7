"""The job around the library: configuration, sources of rows, the result store, the stages, the pictures."""
