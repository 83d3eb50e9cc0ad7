"""Passes over the data: what one read of every chunk computes, and how the results of the chunks are merged."""
