"""How each row of the report is read, in words that a student understands."""

from __future__ import annotations

READINGS: dict[str, str] = {
    "one-step": "How far one jump misses the true state, over the miss of the best predictor that learns nothing: at 1 "
    "nothing was learned, 0 is perfect.",
    "calibration": "Members of a committee differ where they are unsure: the line should follow the diagonal, and "
    "above it they are too sure.",
    "temperature": "Every element should have the temperature of the reference.",
    "equipartition": "At equilibrium all elements have one temperature: a hot one beside a cold one shows that "
    "energy goes from one motion to another in a wrong way.",
    "kinetic-energy": "How probable the kinetic energies of the run are at its temperature: far below 0.01 they are "
    "not those of a thermostat.",
    "ensemble": "The energies of runs at two temperatures overlap by a law of Boltzmann's: 0 standard errors off is "
    "right.",
    "drift": "Without a thermostat the total energy should stay level: a slope says that jumps make energy, or lose "
    "it.",
    "h(r)": "How often two atoms are at a distance r: the two lines should lie on each other.",
    "g(r)": "How many neighbours an atom has at a distance r, over those of an even spread: the two lines should lie "
    "on each other.",
    "vdos": "Which vibrations are in the velocities: both lines should have the same peaks.",
    "vdos-dx": "Which vibrations are in the positions: both lines should have the same peaks.",
    "msd": "How far atoms wander in a time: the slope at long times is the diffusion, and should be the same.",
    "torsions": "How often the molecule is turned about a bond by an angle: the two lines should lie on each other.",
    "torsions-joint": "How often two backbone angles have a pair of values: 0 is the same shares, 1 nothing in common.",
    "tica": "How the frames are spread along the slowest motion of the molecule: the two lines should lie on each "
    "other.",
    "populations": "The share of time in each basin of the backbone angles: up to 1 the difference is one of chance.",
    "map": "Low energies are shapes that the molecule likes: both maps should have the same valleys, equally deep.",
    "transitions": "How probable it is to be in another basin a while later: both squares should have the same "
    "colours.",
    "time-scales": "How long a slow process takes, by the lag it is looked at with: believe it where its line is "
    "level, and the lines should lie in each other's bands.",
    "detailed-balance": "At equilibrium as many jumps lead from one basin to another as back: beyond 3 standard "
    "errors they do not.",
    "chirality": "A stereocentre that turns over makes another molecule: none should.",
    "energy": "The mean potential energy after a few classical steps should be that of the reference.",
    "bonds": "How far bonds are from their lengths in the reference.",
    "reversibility": "A jump, velocities turned round, and a jump again should lead back: 0 does.",
    "constraints": "How far lengths that are to be held are off: as little as rounding allows.",
    "fallback": "A jump is refused where it goes beyond what was trained on: few should be.",
    "break-even": "Below 1 a jump is faster than the classical steps that it replaces, above 1 it is slower.",
}
