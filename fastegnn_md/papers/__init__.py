"""What only the tables of the papers need: their data sets and their rows."""
