"""Arrays on grids: which dimensions are rows and which are columns, and how they are read."""
