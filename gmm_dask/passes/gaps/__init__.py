"""Rows with missing values: what is known of the data, the sums of a fit, and what is missing in a row."""
