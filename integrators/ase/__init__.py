"""ASE molecular dynamics that jump."""
