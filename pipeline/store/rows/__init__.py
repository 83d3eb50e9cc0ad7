"""Values of rows: of a job's own, as Zarr arrays or Parquet files, and scores of other rows."""
