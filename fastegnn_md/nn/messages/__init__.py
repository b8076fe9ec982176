"""Messages of edges and their sums, where the time of a network goes."""
