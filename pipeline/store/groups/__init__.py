"""The results of a search for each group of rows (``data.by``)."""
