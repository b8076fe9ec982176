"""Observables against closed forms, independent libraries and the projection of constraints."""

from __future__ import annotations

import MDAnalysis as mda
import numpy as np
import pytest
import torch
from MDAnalysis.lib.distances import self_distance_array
from MDAnalysisTests.datafiles import DCD, GRO, PSF, TRR
from scipy import integrate, stats
from scipy.spatial.distance import jensenshannon

from fastegnn_md.data import load_universe
from fastegnn_md.errors import DataError
from fastegnn_md.mechanics.constraints import Constraints
from fastegnn_md.mechanics.freedom import Freedom
from fastegnn_md.mechanics.thermal import thermal_velocities
from fastegnn_md.propagator.fake import FakePropagator
from fastegnn_md.state import State
from fastegnn_md.units import BOLTZMANN, KJ_PER_MOL
from fastegnn_md.validation import (
    ConstraintViolation,
    Diffusion,
    ElementTemperatures,
    PairDistances,
    RigidPairs,
    TorsionComponents,
    VelocityDensityOfStates,
    degrees_of_freedom,
    energy_drift,
    ensemble_check,
    find_torsions,
    fit_components,
    joint_histograms,
    kinetic_energy_check,
    radial_distribution,
    round_trip,
    torsion_angles,
    torsion_histograms,
)
from fastegnn_md.validation.statistics import mean_jensen_shannon

CM = 33.35640951981521


def in_memory(positions, symbols, *, dt=0.001, velocities=None, box=None, bonds=None, resindex=None):
    """A universe of frames (n_frames, N, 3) in memory."""
    residues = np.zeros(len(symbols), dtype=int) if resindex is None else resindex
    universe = mda.Universe.empty(
        len(symbols), n_residues=residues.max() + 1, atom_resindex=residues, trajectory=True, velocities=True
    )
    universe.add_TopologyAttr("elements", symbols)
    universe.add_TopologyAttr("names", [f"{one}{i}" for i, one in enumerate(symbols)])
    universe.add_TopologyAttr("masses", [{"H": 1.008, "C": 12.011, "O": 15.999, "Ar": 39.948}[s] for s in symbols])
    if bonds is not None:
        universe.add_TopologyAttr("bonds", bonds)
    universe.load_new(np.asarray(positions), velocities=velocities, dimensions=box, dt=dt)
    return universe


@pytest.fixture(scope="module")
def oscillator():
    """Two atoms on springs of 1000 and 3000 1/cm, three directions each with a phase of its own."""
    rng = np.random.default_rng(1)
    times, dt = 0.001 * np.arange(4000), 0.001
    omega = 2 * np.pi * np.array([1000.0, 3000.0]) / CM
    phase = rng.uniform(0, 2 * np.pi, (2, 3))
    amplitude = np.array([0.1, 0.02])
    angle = omega[None, :, None] * times[:, None, None] + phase
    x = amplitude[None, :, None] * np.sin(angle)
    v = amplitude[None, :, None] * omega[None, :, None] * np.cos(angle)
    return in_memory(x + np.array([[0, 0, 0], [5, 0, 0]]), ["C", "H"], dt=dt, velocities=v), omega


def test_the_spectrum_of_oscillators_has_its_peaks_at_their_frequencies(oscillator):
    universe, _ = oscillator
    result = VelocityDensityOfStates(universe.atoms, segment=2.0).run().results
    resolution = result.frequencies[1]
    assert resolution == pytest.approx(CM / 2.0, rel=1e-6)
    assert result.peaks == pytest.approx([1000.0, 3000.0], abs=resolution)
    assert result.density.sum() * resolution == pytest.approx(1.0)
    # m ω² A² / 2 of each oscillator is its share of the kinetic energy
    shares = np.array([12.011 * (1000 * 0.1) ** 2, 1.008 * (3000 * 0.02) ** 2])
    low = result.density[result.frequencies < 2000].sum() * resolution
    assert low == pytest.approx(shares[0] / shares.sum(), rel=1e-3)


def test_the_spectrum_of_positions_is_that_of_velocities_times_the_response_of_central_differences(oscillator):
    universe, omega = oscillator
    stored = VelocityDensityOfStates(universe.atoms, segment=2.0).run(step=2).results
    central = VelocityDensityOfStates(universe.atoms, "central", segment=2.0).run(step=2).results
    response = (np.sin(omega * 0.002) / (omega * 0.002)) ** 2
    split = stored.frequencies < 2000
    ratio = central.density[~split].sum() / central.density[split].sum()
    assert ratio == pytest.approx(
        stored.density[~split].sum() / stored.density[split].sum() * response[1] / response[0], rel=1e-3
    )


def test_spectra_refuse_what_they_cannot_be_made_of(oscillator):
    universe, _ = oscillator
    with pytest.raises(DataError, match="stored"):
        VelocityDensityOfStates(universe.atoms, "forward")
    with pytest.raises(DataError, match="too few"):
        VelocityDensityOfStates(universe.atoms).run(stop=5)
    with pytest.raises(DataError, match="no velocities"):
        VelocityDensityOfStates(in_memory(np.zeros((20, 1, 3)), ["H"]).atoms).run()
    with pytest.raises(DataError, match="evenly"):
        VelocityDensityOfStates(universe.atoms).run(frames=[0, 1, 2, 3, 4, 5, 6, 7, 9, 11])


def test_all_pair_distances_of_a_known_distribution():
    """|x_a - x_b| of two normal points is a Maxwell distribution of width √2 σ."""
    rng = np.random.default_rng(2)
    universe = in_memory(rng.normal(0.0, 0.8, (20_000, 2, 3)), ["C", "O"])
    result = PairDistances(universe.atoms, longest=8.0, width=0.25).run().results
    edges = np.arange(33) * 0.25
    share = np.diff(stats.maxwell(scale=0.8 * 2**0.5).cdf(edges))
    assert result.density * 0.25 == pytest.approx(share, abs=4 * 0.5 / 20_000**0.5)
    assert result.density.sum() * 0.25 == pytest.approx(1.0)


def test_all_pair_distances_are_those_of_mdanalysis_and_the_last_bin_takes_what_is_longer():
    universe = in_memory(np.random.default_rng(3).normal(0, 2, (3, 6, 3)), ["H"] * 6)
    result = PairDistances(universe.atoms, longest=2.0, width=0.5).run().results
    distances = np.concatenate([self_distance_array(frame.positions) for frame in universe.trajectory])
    counts = np.histogram(distances, [0, 0.5, 1.0, 1.5, np.inf])[0]
    assert result.density * 0.5 == pytest.approx(counts / len(distances))


def test_radial_distribution_of_an_ideal_gas_is_one():
    rng = np.random.default_rng(4)
    box = np.array([20.0, 20.0, 20.0, 90.0, 90.0, 90.0])
    positions = rng.uniform(0, 20, (200, 60, 3)).astype(np.float32)
    molecules = np.repeat(np.arange(30), 2)
    universe = in_memory(positions, ["Ar"] * 60, box=np.tile(box, (200, 1)), resindex=molecules)
    rdf = radial_distribution(universe.atoms, universe.atoms, longest=10.0, n_bins=10).run()
    # the partner in the molecule is left out: 58 of 60 atoms are around each
    expected = np.full(10, 58 / 60)
    shells = 4 / 3 * np.pi * np.diff(rdf.results.edges**3)
    sigma = 1 / np.sqrt(200 * 60 * 58 / 2 * shells / 20**3)
    assert np.abs(rdf.results.rdf - expected).max() < 4 * sigma.max()
    assert np.all(np.abs(rdf.results.rdf - expected) < 4 * sigma * expected)


def test_a_brownian_walk_has_the_diffusion_coefficient_of_its_steps_through_periodic_boundaries():
    rng = np.random.default_rng(5)
    diffusion, dt, box = 0.3, 0.1, 15.0
    steps = rng.normal(0, np.sqrt(2 * diffusion * dt), (2000, 80, 3))
    walk = rng.uniform(0, box, (80, 3)) + np.cumsum(steps, axis=0)
    dimensions = np.tile([box, box, box, 90.0, 90.0, 90.0], (2000, 1))
    universe = in_memory(walk % box, ["Ar"] * 80, dt=dt, box=dimensions)
    result = Diffusion(universe.atoms, fit=(0.005, 0.05)).run().results
    # about 2000 / 50 independent stretches of each of 240 coordinates
    assert result.diffusion == pytest.approx(diffusion, rel=4 * np.sqrt(2 / (240 * 40)))
    assert result.lags[1] == pytest.approx(dt)
    assert result.msd[1] == pytest.approx(6 * diffusion * dt, rel=4 * np.sqrt(2 / (2000 * 240)))
    with pytest.raises(DataError, match="too few"):
        Diffusion(universe.atoms).run(stop=5)
    with pytest.raises(DataError, match="rising"):
        Diffusion(universe.atoms, fit=(0.5, 0.1))


def water(n, rng):
    """Rigid-water geometry in n orientations: positions, bonds (O-H, O-H, H-H)."""
    one = np.array([[0, 0, 0], [0.9572, 0, 0], [-0.24, 0.9266, 0]])
    turns = np.linalg.qr(rng.standard_normal((n, 3, 3)))[0]
    places = np.concatenate([one @ turn + 10 * rng.standard_normal(3) for turn in turns])
    bonds = np.concatenate([3 * k + np.array([[0, 1], [0, 2], [1, 2]]) for k in range(n)])
    return places, bonds


def test_degrees_of_freedom_are_those_that_projected_thermal_velocities_have():
    rng = np.random.default_rng(6)
    places, bonds = water(1, rng)
    # a methyl group beside the water: carbon with three held hydrogens, and an unconstrained argon
    methyl = np.array([[5, 0, 0], [5.6, 0.9, 0], [5.6, -0.5, 0.8], [5.6, -0.4, -0.9], [9, 9, 9]])
    x = np.concatenate([places, methyl])
    bonds = np.concatenate([bonds, [[3, 4], [3, 5], [3, 6]]])
    masses = np.array([15.999, 1.008, 1.008, 12.011, 1.008, 1.008, 1.008, 39.948])
    freedom = degrees_of_freedom(x, masses, bonds)
    assert freedom.sum() == pytest.approx(3 * 8 - 6)
    assert freedom[7] == 3.0
    lengths = torch.tensor(np.linalg.norm(x[bonds[:, 0]] - x[bonds[:, 1]], axis=1))
    held = Constraints(torch.tensor(masses), torch.tensor(bonds), lengths, torch.zeros(8, dtype=torch.bool))
    state = State(
        positions=torch.tensor(x), velocities=torch.zeros(8, 3, dtype=torch.float64),
        numbers=torch.tensor([8, 1, 1, 6, 1, 1, 1, 18]), masses=torch.tensor(masses),
    )  # fmt: skip
    assert freedom.sum() == pytest.approx(Freedom(held).degrees(state))
    kinetic = []
    for _ in range(4000):
        v = held.project_velocities(state, thermal_velocities(state.masses, 300.0, rng))
        kinetic.append(0.5 * masses * v.square().sum(1).numpy())
    measured = 2 * np.array(kinetic) / (BOLTZMANN * 300.0)
    error = measured.std(axis=0) / 4000**0.5
    assert np.all(np.abs(measured.mean(axis=0) - freedom) < 4 * error)


def test_one_held_bond_takes_from_each_atom_the_share_of_the_other_mass():
    freedom = degrees_of_freedom(np.array([[0.0, 0, 0], [1, 0, 0]]), np.array([12.0, 1.0]), np.array([[0, 1]]))
    assert freedom == pytest.approx([3 - 1 / 13, 3 - 12 / 13])


def test_a_bond_across_the_boundary_counts_like_any_other():
    x, masses = np.array([[0.2, 1, 2], [9.5, 1.5, 2]]), np.array([12.0, 1.0])
    box = np.array([10.0, 10, 10, 90, 90, 90], dtype=np.float32)
    bonds = np.array([[0, 1], [0, 1]])  # the same twice: one constraint
    assert degrees_of_freedom(x, masses, bonds, box) == pytest.approx([3 - 1 / 13, 3 - 12 / 13])


def test_temperatures_of_elements_are_what_velocities_were_drawn_at():
    rng = np.random.default_rng(7)
    masses = np.array([12.011, 1.008, 1.008])
    wanted = np.array([300.0, 450.0, 450.0])
    v = np.sqrt(BOLTZMANN * wanted / masses)[:, None] * rng.standard_normal((5000, 3, 3))
    universe = in_memory(np.tile(np.arange(9.0).reshape(3, 3), (5000, 1, 1)), ["C", "H", "H"], velocities=v)
    result = ElementTemperatures(universe.atoms).run().results
    assert result.elements == ["H", "C"]
    mean = result.temperatures.mean(axis=0)
    assert mean[1] == pytest.approx(300.0, rel=4 * np.sqrt(2 / (3 * 5000)))
    assert mean[0] == pytest.approx(450.0, rel=4 * np.sqrt(2 / (6 * 5000)))
    total = 0.5 * (masses * np.square(v).sum(-1)).sum(-1) / KJ_PER_MOL
    assert result.kinetic_energy == pytest.approx(total, rel=1e-5)


def test_temperatures_of_a_real_trajectory_are_about_those_of_its_thermostat():
    universe = load_universe(GRO, TRR)  # water and protein, 300 K, rigid bonds
    water = universe.select_atoms("resname SOL and not name MW")[: 3 * 500]
    three = np.arange(1500).reshape(-1, 3)
    bonds = np.concatenate([three[:, [0, 1]], three[:, [0, 2]], three[:, [1, 2]]])
    result = ElementTemperatures(water, bonds).run(stop=2).results
    assert result.degrees_of_freedom.sum() == pytest.approx(6 * 500)
    assert result.temperatures.mean(axis=0) == pytest.approx([300.0, 300.0], abs=25)
    uncorrected = ElementTemperatures(water).run(stop=2).results.temperatures.mean(axis=0)
    assert uncorrected[0] < 0.6 * 300  # hydrogens have most of what is held


def test_temperatures_need_velocities():
    universe = in_memory(np.zeros((2, 1, 3)), ["H"])
    with pytest.raises(DataError, match="no velocities"):
        ElementTemperatures(universe.atoms).run()


BUTANE = ["C", "C", "C", "C"]
CHAIN = [(0, 1), (1, 2), (2, 3)]


def butane(angles):
    """Four carbons with the torsions given in radians."""
    x = np.zeros((len(angles), 4, 3))
    x[:, 0], x[:, 2] = [1.0, 1.0, 0.0], [0.0, 0.0, 1.5]
    x[:, 0] = [1.2, 0.0, -0.5]
    x[:, 3] = np.stack([1.2 * np.cos(angles), 1.2 * np.sin(angles), np.full(len(angles), 2.0)], axis=1)
    return in_memory(x, BUTANE, bonds=CHAIN)


def test_torsions_are_those_the_molecule_was_built_with():
    given = np.array([-3.0, -1.0, 0.5, 2.5])
    torsions = find_torsions(butane(given).atoms)
    assert torsions.names == ["C0-C1-C2-C3"]
    assert torsion_angles(torsions.groups)[:, 0] == pytest.approx(np.rad2deg(given), abs=1e-3)
    assert torsion_angles(torsions.groups, start=1, stop=3).shape == (2, 1)


def test_jensen_shannon_distance_of_von_mises_samples_is_the_integral():
    rng = np.random.default_rng(8)
    a, b = stats.vonmises(kappa=2.0, loc=0.0), stats.vonmises(kappa=2.0, loc=1.0)
    histograms = [torsion_histograms(np.rad2deg(law.rvs(200_000, random_state=rng))[:, None], 100) for law in (a, b)]

    def integrand(x):
        p, q = a.pdf(x), b.pdf(x)
        m = 0.5 * (p + q)
        return 0.5 * (p * np.log2(p / m) + q * np.log2(q / m))

    exact = np.sqrt(integrate.quad(integrand, -np.pi, np.pi)[0])
    assert mean_jensen_shannon(*histograms) == pytest.approx(exact, abs=5e-3)
    assert mean_jensen_shannon(histograms[0], histograms[0]) == 0
    two = np.concatenate(histograms), np.concatenate(histograms[::-1])
    assert mean_jensen_shannon(*two) == pytest.approx(jensenshannon(histograms[0][0], histograms[1][0], base=2))


def test_joint_histograms_know_which_angles_go_together():
    angles = np.array([[-100.0, 120.0, 10.0], [-100.0, 120.0, 20.0], [60.0, 40.0, 30.0], [60.0, 40.0, 30.0]])
    (cells,) = joint_histograms(angles, [(0, 1)], 18)
    cells = cells.reshape(18, 18)
    assert cells[4, 15] == cells[12, 11] == 0.5
    assert cells.sum() == 1.0


def test_backbone_torsions_of_a_protein_are_phi_and_psi():
    universe = load_universe(PSF, DCD)
    torsions = find_torsions(universe.select_atoms("resid 1:5"))
    assert torsions.names[0] == "ψ of MET 1"
    assert torsions.names[1:3] == ["φ of ARG 2", "ψ of ARG 2"]
    assert torsions.pairs[0] == (1, 2)
    assert len(torsions.groups) == 8  # ψ of the last residue leaves the selection


def test_a_molecule_without_torsions_says_so():
    with pytest.raises(DataError, match="no bonds"):
        find_torsions(in_memory(np.zeros((1, 2, 3)), ["C", "O"]).atoms)
    with pytest.raises(DataError, match="no bond between heavy atoms"):
        find_torsions(in_memory(np.zeros((1, 2, 3)), ["C", "O"], bonds=[(0, 1)]).atoms)


def test_time_lagged_components_find_the_slow_process_and_its_time_scale(require):
    """Two AR(1) processes mixed: the eigenvalue at lag τ is a^τ."""
    require("deeptime")
    rng = np.random.default_rng(9)
    slow, fast = np.zeros(40_000), np.zeros(40_000)
    noise = rng.standard_normal((2, 40_000))
    for t in range(1, 40_000):
        slow[t] = 0.98 * slow[t - 1] + noise[0, t]
        fast[t] = 0.5 * fast[t - 1] + noise[1, t]
    mixed = np.stack([slow + 3 * fast, slow - 3 * fast], axis=1)
    model = fit_components([mixed[:20_000], mixed[20_000:]], lag=5)
    assert model.singular_values[0] == pytest.approx(0.98**5, abs=0.02)
    assert abs(np.corrcoef(model.transform(mixed)[:, 0], slow)[0, 1]) > 0.99
    with pytest.raises(DataError, match="lag"):
        fit_components([mixed[:5]], lag=5)


def test_components_of_torsions_separate_two_states(require):
    require("deeptime")
    rng = np.random.default_rng(10)
    state = np.cumsum(rng.random(4000) < 0.01) % 2  # stays 99 of 100 times: eigenvalue 0.98
    universe = butane(np.where(state, 1.2, -1.2) + 0.2 * rng.standard_normal(4000))
    groups = find_torsions(universe.atoms).groups
    result = TorsionComponents(groups, lag=1).run().results
    assert result.features.shape == (4000, 2)
    assert abs(np.corrcoef(result.components[:, 0], state)[0, 1]) > 0.95
    again = TorsionComponents(groups, model=result.model).run(start=100, stop=200).results
    assert again.components == pytest.approx(result.components[100:200])


def test_the_drift_of_a_line_with_noise_lies_within_its_interval():
    rng = np.random.default_rng(11)
    times = np.linspace(0, 50, 5000)
    kinetic = 40 + 3 * rng.standard_normal(5000)
    energy = 0.2 * times + np.convolve(rng.standard_normal(5009), np.ones(10) / 10, "valid")
    drift = energy_drift(times, energy, kinetic, n_atoms=10)
    assert abs(drift.over_fluctuation * np.std(kinetic) - 0.2) < drift.error * np.std(kinetic)
    assert drift.per_atom == pytest.approx(0.02, abs=drift.error * np.std(kinetic) / 10)
    assert drift.error < 0.01
    with pytest.raises(DataError, match="too few"):
        energy_drift(times[:10], energy[:10], kinetic[:10], 10)
    energy[7] = np.nan
    with pytest.raises(DataError, match="blew up"):
        energy_drift(times, energy, kinetic, 10)
    with pytest.raises(DataError, match="fluctuate"):
        energy_drift(times, times, np.ones(5000), 10)


@pytest.fixture(scope="module")
def hydroxyl():
    """Three atoms in a row: the first bond keeps its length to the digits of XTC, the second vibrates."""
    rng = np.random.default_rng(12)
    frames = np.zeros((400, 3, 3))
    frames[:, 1, 0] = 0.97
    frames[:, 2, 0] = 0.97 + rng.normal(1.4, 0.03, 400)
    return in_memory(np.round(frames, 2) + rng.uniform(-0.004, 0.004, frames.shape), ["H", "O", "C"], bonds=CHAIN[:2])


def test_rigid_pairs_are_told_from_stiff_bonds(hydroxyl):
    result = RigidPairs(hydroxyl.atoms).run().results
    assert result.pairs.tolist() == [[0, 1]]
    assert result.lengths == pytest.approx([0.97], abs=1e-3)
    assert len(RigidPairs(hydroxyl.atoms).run(stop=1).results.pairs) == 0


def test_rigid_water_is_rigid_in_its_angle_too():
    rng = np.random.default_rng(13)
    frames = np.stack([water(2, rng)[0] for _ in range(20)])
    universe = in_memory(frames, ["O", "H", "H"] * 2, bonds=[(0, 1), (0, 2), (3, 4), (3, 5)])
    pairs = RigidPairs(universe.atoms).run().results.pairs
    assert pairs.tolist() == [[0, 1], [0, 2], [1, 2], [3, 4], [3, 5], [4, 5]]


def test_constraint_violation_is_the_relative_deviation(hydroxyl):
    frames = np.zeros((2, 3, 3))
    frames[:, 1, 0], frames[:, 2, 0] = 1.0, [3.0, 3.3]
    universe = in_memory(frames, ["H", "O", "C"])
    result = ConstraintViolation(universe.atoms, np.array([[0, 1], [1, 2]]), np.array([1.0, 2.0])).run().results
    assert result.largest == pytest.approx([0.0, 0.15], abs=1e-6)
    assert result.rms == pytest.approx([0.0, 0.15 / 2**0.5], abs=1e-6)


def test_kinetic_energies_of_the_canonical_ensemble_pass_and_hotter_ones_do_not(require):
    require("physical_validation")
    rng = np.random.default_rng(14)
    kt = BOLTZMANN / KJ_PER_MOL * 300.0
    kinetic = rng.gamma(54 / 2, kt, 2000)
    right = kinetic_energy_check(kinetic, 300.0, 54)
    assert right.p > 0.01
    assert right.from_mean == pytest.approx(300.0, rel=4 * np.sqrt(2 / 54 / 2000))
    assert right.from_deviation == pytest.approx(300.0, rel=4 / np.sqrt(2 * 2000) * 1.1)
    assert kinetic_energy_check(1.05 * kinetic, 300.0, 54).p < 1e-3
    with pytest.raises(DataError, match="too few"):
        kinetic_energy_check(kinetic[:9], 300.0, 54)
    with pytest.raises(DataError, match="blew up"):
        kinetic_energy_check(np.full(99, np.nan), 300.0, 54)


def test_the_ensemble_check_tells_canonical_energies_from_too_narrow_ones(require):
    """Harmonic oscillators: the potential energy has a gamma distribution."""
    require("physical_validation")
    rng = np.random.default_rng(15)
    kt = BOLTZMANN / KJ_PER_MOL * np.array([300.0, 320.0])
    cold, hot = (rng.gamma(27, one, 3000) for one in kt)
    assert ensemble_check(cold, hot, (300.0, 320.0)) < 3
    narrow = [0.7 * (one - one.mean()) + one.mean() for one in (cold, hot)]
    assert ensemble_check(narrow[0], narrow[1], (300.0, 320.0)) > 5


@pytest.mark.parametrize("scale", [1.0, 1.01])
def test_there_and_back(scale):
    state = State(
        positions=torch.zeros(2, 3, dtype=torch.float64),
        velocities=torch.tensor([[1.0, 2, 3], [0, 1, 0]], dtype=torch.float64),
        numbers=torch.tensor([6, 1]),
        masses=torch.tensor([12.0, 1.0], dtype=torch.float64),
    )

    def move(state):
        """Free flight whose velocities are scaled: reversible for a scale of one."""
        v = scale * state.velocities
        return state.positions + 0.01 * v, v

    trip = round_trip(FakePropagator(move, 0.01), [state, state])
    # there by s v Δt, back by s² v Δt: off by (s² − s) v Δt
    assert trip.x == pytest.approx([scale - 1] * 2, abs=1e-12)
    assert trip.v == pytest.approx([scale**2 - 1] * 2, abs=1e-12)
