"""Physics of a State: motion, constraints, thermal velocities, conservation; no network, no engine."""
