"""Building blocks of the networks: MLPs, scatter sums, edge kernels."""
