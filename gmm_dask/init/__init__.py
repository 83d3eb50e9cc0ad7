"""The starts of a fit: scikit-learn's, the user's own, and the best of many short runs over a subsample (``auto``)."""
