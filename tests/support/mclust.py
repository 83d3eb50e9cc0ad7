"""What mclust calls the covariance models, and how its tables are reached."""

MCLUST_NAMES = {"full": "VVV", "tied": "EEE", "diag": "VVI", "spherical": "VII"}
# Started from single rows, components have no variance but this.
REG_COVAR = 1e-6
