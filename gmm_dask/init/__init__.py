"""The starts of a fit: scikit-learn's, those that a user gives, and the best of many short runs (``auto``)."""
