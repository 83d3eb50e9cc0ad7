"""A search for each group of rows (``data.by``): the rows are taken apart in one read, then each group is fitted."""
