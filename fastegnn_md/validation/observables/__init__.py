"""What is measured of a trajectory, one family a file."""
