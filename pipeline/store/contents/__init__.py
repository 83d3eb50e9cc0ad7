"""What a store holds of a result, one part a module: criteria, models, clusters, transforms."""
