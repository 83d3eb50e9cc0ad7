"""Model selection: the grid of candidates, the criteria that rank them, and the diagnostics of the choice."""
