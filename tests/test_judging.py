"""What judges drawn jumps, held against processes whose transition densities are known, and against wrong samplers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from known_processes import DoubleWell, OrnsteinUhlenbeck, chain
from scipy.stats import norm

from fastegnn_md.errors import DataError
from fastegnn_md.graph.stereo import signed_volumes
from fastegnn_md.validation.observables.basins import ALANINE, named_basins, populations, split_half_floor
from fastegnn_md.validation.observables.chirality import flips
from fastegnn_md.validation.observables.geometry import Moments, angle_sizes, bond_lengths, bonded_angles, rms_from
from fastegnn_md.validation.observables.kinetics import (
    assign,
    chapman_kolmogorov,
    fit_clusters,
    implied_timescales,
    markov_model,
    passage_times,
)
from fastegnn_md.validation.observables.metastable import metastable_sets
from fastegnn_md.validation.observables.shots import break_even, compare_shots, energy_distance
from fastegnn_md.validation.observables.transitions import count_transitions, flux_asymmetry, transition_matrix
from fastegnn_md.validation.slow_processes import compare_timescales
from fastegnn_md.validation.statistics import Sample, mean_jensen_shannon
from fastegnn_md.validation.torsion_runs import (
    TorsionRuns,
    compare_maps,
    compare_populations,
    compare_transitions,
    detailed_balance,
)

TAU = 0.5


@pytest.fixture(scope="module")
def well() -> DoubleWell:
    return DoubleWell()


@pytest.fixture(scope="module")
def exact(well) -> np.ndarray:
    """Grid points of exact chains (runs, frames)."""
    return well.trajectories(40, 2500, TAU, np.random.default_rng(1))


@pytest.fixture(scope="module")
def clusters(well) -> np.ndarray:
    """Thirty clusters of grid points, as k-means would make them."""
    return np.arange(len(well.x)) * 30 // len(well.x)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def wrong_samplers(well: DoubleWell) -> dict[str, np.ndarray]:
    """Chains of what is no propagator, made to look right in one way or another."""
    draw = np.random.default_rng(2)
    start, mean = well.draw(40, draw), well.matrix(TAU) @ well.x

    def conditional_mean(k: np.ndarray) -> np.ndarray:
        return np.abs(well.x[None] - mean[k][:, None]).argmin(axis=1)

    return {
        "independent": well.draw((40, 2501), draw),
        "unmoved": chain(start, lambda k: k, 2500),
        "conditional mean": chain(start, conditional_mean, 2500),
    }


def test_regions_of_alanine_cover_the_map_once():
    grid = np.stack(np.meshgrid(np.arange(-180, 181, 5.0), np.arange(-180, 181, 5.0)), axis=-1)
    labels = named_basins(grid)
    assert (labels >= 0).all()
    for number, region in enumerate(ALANINE.values()):
        alone = named_basins(grid, {"one": region})
        assert ((alone == 0) == (labels == number)).all()
    places = {"C5": (-150, 155), "C7eq": (-75, 140), "alphaR": (-75, -20), "alphaL": (55, 40), "C7ax": (65, -70)}
    assert {name: list(ALANINE)[int(named_basins(np.array(at)))] for name, at in places.items()} == {
        name: name for name in places
    }
    assert named_basins(np.array([-150.0, 155.0]), {"alphaL": ALANINE["alphaL"]}) == -1


def test_populations_of_exact_chains_lie_within_their_errors(well, exact):
    found = populations(list(well.basin[exact]), 2, rng())
    truth = well.p[well.basin == 1].sum()
    assert 0.002 < found.errors[1] < 0.02
    assert abs(found.values[1] - truth) < 3 * found.errors[1]


def test_errors_of_populations_are_those_of_repeated_experiments(well):
    repeated = [
        populations(list(well.basin[well.trajectories(20, 200, TAU, np.random.default_rng(seed))]), 2, rng())
        for seed in range(30)
    ]
    truth = np.std([one.values[1] for one in repeated], ddof=1)
    assert np.mean([one.errors[1] for one in repeated]) == pytest.approx(truth, rel=0.3)


def test_transition_matrix_is_that_of_the_fokker_planck_operator(well, exact):
    for lag in (1, 4):
        found = transition_matrix(list(well.basin[exact]), lag, 2, rng())
        np.testing.assert_array_less(np.abs(found.probabilities - well.basin_matrix(lag * TAU)), 4 * found.errors)
        assert found.errors.max() < 0.02
        assert found.counts.sum() == pytest.approx(40 * (2501 - lag) / lag)


@pytest.mark.parametrize("name", ["independent", "unmoved", "conditional mean"])
def test_wrong_samplers_are_told_by_the_transition_matrix(well, name):
    labels = well.basin[wrong_samplers(well)[name]]
    found = transition_matrix(list(labels), 1, 2, rng())
    assert np.nanmax(np.abs(found.probabilities - well.basin_matrix(TAU))) > 0.03


def test_independent_draws_have_the_right_map_which_tells_nothing_of_kinetics(well, exact):
    def histogram(points: np.ndarray) -> np.ndarray:
        return np.bincount(points.ravel(), minlength=len(well.x))[None] / points.size

    drawn = mean_jensen_shannon(histogram(wrong_samplers(well)["independent"]), histogram(exact))
    floor = split_half_floor([Sample(histogram(one), len(one)) for one in exact], rng())
    assert drawn < 1.5 * floor
    assert mean_jensen_shannon(histogram(wrong_samplers(well)["conditional mean"]), histogram(exact)) > 5 * floor


def test_a_split_half_floor_is_the_distance_of_independent_halves(well):
    halves = [well.draw(20_000, np.random.default_rng(seed)) for seed in range(8)]
    samples = [Sample(np.bincount(one, minlength=len(well.x))[None] / len(one), len(one)) for one in halves]
    both = [np.mean([sample.values for sample in part], axis=0) for part in (samples[:4], samples[4:])]
    assert split_half_floor(samples, rng()) == pytest.approx(mean_jensen_shannon(*both), rel=0.3)
    with pytest.raises(DataError, match="cut it into pieces"):
        split_half_floor(samples[:1], rng())


def test_implied_time_scale_is_the_eigenvalue_within_its_interval(well, exact, clusters, require):
    require("deeptime")
    found = implied_timescales(list(clusters[exact]), [1, 2, 5], 30, rng(), processes=2)
    truth = well.timescale() / TAU
    assert truth > 5
    for row in range(3):
        assert found.lower[row, 0] < truth < found.upper[row, 0]
        assert found.upper[row, 0] / found.lower[row, 0] < 1.5
        assert found.values[row, 0] == pytest.approx(truth, rel=0.15)
    assert (found.connected == 1).all()


@pytest.mark.parametrize(("name", "scale"), [("independent", 0.2), ("conditional mean", None), ("unmoved", None)])
def test_wrong_samplers_are_told_by_time_scales(well, clusters, require, name, scale):
    require("deeptime")
    labels = list(clusters[wrong_samplers(well)[name]])
    if scale is None:  # nothing ever crosses: there is no model, and that is said
        with pytest.raises(DataError, match="no two states are connected"):
            implied_timescales(labels, [1], 30, rng())
    else:
        found = implied_timescales(labels, [1], 30, rng())
        assert abs(np.log(found.values[0, 0] * TAU / well.timescale())) > 1


def test_mean_first_passage_times_are_those_of_the_grid(well, exact, clusters, require):
    require("deeptime")
    model = markov_model(sum(count_transitions(one, 1, 30) for one in clusters[exact]))
    ends = [np.array([k for k in range(30) if (side * well.x[clusters == k] > 0.6).all()]) for side in (-1, 1)]
    masks = [np.isin(clusters, one) for one in ends]
    found = TAU * passage_times(model, ends)
    assert found[0, 1] == pytest.approx(well.passage(TAU, *masks), rel=0.2)
    assert found[1, 0] == pytest.approx(well.passage(TAU, *masks[::-1]), rel=0.2)
    assert np.isnan(passage_times(model, [np.array([99]), ends[0]])).all()


def test_chapman_kolmogorov_holds_for_a_markov_chain_and_not_for_one_with_memory(well, exact, clusters, require):
    require("deeptime")
    predicted, seen = chapman_kolmogorov(list(clusters[exact]), list(well.basin[exact]), 1, 30, 2)
    np.testing.assert_allclose(predicted, seen, atol=0.01)
    np.testing.assert_allclose(seen, well.basin_matrix(2 * TAU), atol=0.02)
    # two frames here, two frames there: after one step either is as likely, after two steps it is surely the other
    back_and_forth = [np.tile([0, 0, 1, 1], 500)] * 2
    predicted, seen = chapman_kolmogorov(back_and_forth, back_and_forth, 1, 2, 2)
    np.testing.assert_allclose(predicted, 0.5, atol=0.01)
    np.testing.assert_allclose(seen, [[0, 1], [1, 0]], atol=0.01)


def test_detailed_balance_is_broken_by_a_current_alone():
    def sectors(x: np.ndarray) -> np.ndarray:
        return (np.arctan2(x[..., 1], x[..., 0]) // (2 * np.pi / 5) % 5).astype(np.int64)

    balanced, driven = (OrnsteinUhlenbeck(r).trajectories(40, 2000, 0.2, rng()) for r in (0.0, 0.5))
    assert np.cov(driven.reshape(-1, 2).T) == pytest.approx(np.eye(2), abs=0.03)
    still, moving = (flux_asymmetry(list(sectors(x)), 1, 5) for x in (balanced, driven))
    assert still.largest < still.limit
    assert moving.largest > 3 * moving.limit
    np.testing.assert_allclose(moving.scores, -moving.scores.T, equal_nan=True)
    with pytest.raises(DataError, match="eight runs"):
        flux_asymmetry(list(sectors(balanced)[:3]), 1, 5)


def test_a_balanced_process_exceeds_the_limit_of_the_asymmetry_about_once_in_a_hundred(well):
    third = np.arange(len(well.x)) * 5 // len(well.x)
    chains = [well.trajectories(20, 300, TAU, np.random.default_rng(seed)) for seed in range(60)]
    found = [flux_asymmetry(list(third[one]), 1, 5) for one in chains]
    assert sum(one.largest > one.limit for one in found) <= 4


def test_energy_distance_of_gaussians_is_the_closed_form():
    draw, shift, width = rng(), 0.7, 1.5
    a, b = draw.normal(size=(1500, 1)), shift + width * draw.normal(size=(1500, 1))

    def folded(mean: float, deviation: float) -> float:
        z = mean / deviation
        return deviation * (2 * norm.pdf(z) + z * (1 - 2 * norm.cdf(-z)))

    truth = 2 * folded(shift, np.hypot(1, width)) - folded(0, np.sqrt(2)) - folded(0, np.sqrt(2) * width)
    assert energy_distance(a, b) == pytest.approx(truth, abs=0.05)
    assert abs(energy_distance(a[:750], a[750:])) < 0.01


def test_conditional_shots_accept_the_process_and_tell_every_wrong_sampler():
    process, draw, count = OrnsteinUhlenbeck(), rng(), 300
    starts = np.array([[-2.0, 0.0], [0.0, 0.0], [1.5, 1.0]])
    every = np.repeat(starts[:, None], count, axis=1)

    def shots(x: np.ndarray) -> np.ndarray:
        return process.jump(x.reshape(-1, 2), TAU, draw).reshape(x.shape)

    def found(learned: np.ndarray):
        return compare_shots(learned, reference, *(np.int64(x[..., 0] > 0) for x in (learned, reference)), 2, draw)

    reference = shots(every)
    right = found(shots(every))
    assert right.told_apart == 0
    assert np.abs(right.scores).max() < 4
    truth = norm.cdf(np.exp(-TAU) * starts[:, 0] / np.sqrt(1 - np.exp(-2 * TAU)))
    np.testing.assert_allclose(right.learned[:, 1], truth, atol=0.08)
    # the stationary density is not far from the conditional one of a start in the middle
    assert found(draw.normal(size=every.shape)).told_apart >= 2
    assert found(every).told_apart == 3
    assert found(process.mean(every.reshape(-1, 2), TAU).reshape(every.shape)).told_apart == 3
    assert found(shots(every) + np.array([0.3, 0.0])).told_apart == 3
    with pytest.raises(DataError, match="2 starts of learned shots and 3"):
        compare_shots(reference[:2], reference, np.zeros((2, count), int), np.zeros((3, count), int), 1, draw)


def test_break_even_counts_data_and_training():
    # 10 hours for data and training; a nanosecond takes 100 s of dynamics or 10 s of jumps
    assert break_even(36_000, 100, 10) == pytest.approx(400)
    assert break_even(36_000, 10, 100) == np.inf


def test_flips_are_counted_and_a_flat_centre_is_of_no_hand():
    x = torch.tensor([[[0.0, 0, 0], [1, 1, 1], [-1, -1, 1], [-1, 1, -1], [1, -1, -1]]])
    mirrored = x * torch.tensor([1.0, 1, -1])
    volumes = signed_volumes(torch.cat([x, x, mirrored, mirrored, x]), torch.arange(5)[None]).numpy()
    assert volumes[2, 0] == pytest.approx(-volumes[0, 0])
    assert flips(volumes, volumes[0]).tolist() == [2]
    assert flips(volumes, -volumes[0]).tolist() == [3]
    flat = volumes * [[1], [0.01], [-0.01], [0.01], [1]]
    assert flips(flat, volumes[0]).tolist() == [0]


def test_geometry_is_that_of_known_vibrations():
    draw = rng()
    x = np.zeros((4000, 3, 3))
    x[:, 0, 0] = 1.5 + 0.03 * draw.normal(size=4000)
    x[:, 2, 1] = 1.1
    bonds = np.array([[1, 0], [1, 2]])
    lengths = Moments.of(bond_lengths(x, bonds))
    np.testing.assert_allclose(lengths.mean, [1.5, 1.1], atol=0.003)
    assert rms_from(lengths, lengths) == pytest.approx(0.03 / np.sqrt(2), rel=0.05)
    longer = Moments.of(bond_lengths(x + np.array([[0.04, 0, 0], [0, 0, 0], [0, 0, 0]]), bonds))
    assert rms_from(longer, lengths) == pytest.approx(0.05 / np.sqrt(2), rel=0.05)
    triples = bonded_angles(bonds)
    assert triples.tolist() == [[0, 1, 2]]
    np.testing.assert_allclose(angle_sizes(x, triples), 90.0)


def test_clusters_are_found_and_frames_assigned_to_the_nearest(require):
    require("deeptime")
    blobs = np.concatenate([rng().normal(scale=0.05, size=(300, 2)) + at for at in ([0, 0], [1, 0], [0, 1])])
    centres = fit_clusters([blobs], 3)
    labels = assign(blobs, centres)
    assert [len(set(labels[k * 300 : (k + 1) * 300])) for k in range(3)] == [1, 1, 1]
    assert len(set(labels)) == 3
    assert (fit_clusters([blobs], 3) == centres).all()
    with pytest.raises(DataError, match="do not make"):
        fit_clusters([blobs[:2]], 3)


class Peptide:
    """Torsion runs of one residue whose ψ is a double well: C7eq (ψ 140) and αR (ψ −40), at φ −80."""

    @staticmethod
    def runs(well: DoubleWell, points: np.ndarray, spacing: float = TAU) -> TorsionRuns:
        psi = 50 + 90 * well.x[points]
        angles = np.stack([np.full_like(psi, -80.0), (psi + 180) % 360 - 180], axis=-1)
        return TorsionRuns.of(list(angles), spacing, [(0, 1)], ["φ of ALA 2", "ψ of ALA 2"])


@pytest.fixture(scope="module")
def reference(well, exact) -> TorsionRuns:
    return Peptide.runs(well, exact)


def judged(reference: TorsionRuns, learned: TorsionRuns) -> dict[str, str]:
    """Verdict of each comparison."""
    centres = fit_clusters(reference.features, 30)

    def verdict(find) -> str:
        try:
            return find().row("", "").verdict
        except DataError:
            return "not measured"

    return {
        "populations": verdict(lambda: compare_populations(reference, learned, rng())),
        "map": verdict(lambda: compare_maps(reference, learned, rng())),
        "transitions": verdict(lambda: compare_transitions(reference, learned, 4 * TAU, rng())),
        "time scales": verdict(lambda: compare_timescales(reference, learned, TAU, centres, rng(), (1,))),
    }


def test_every_comparison_of_torsions_accepts_more_of_the_same(well, reference, require):
    require("deeptime")
    again = Peptide.runs(well, well.trajectories(40, 2500, TAU, np.random.default_rng(7)))
    assert judged(reference, again) == dict.fromkeys(("populations", "map", "transitions", "time scales"), "within")
    assert detailed_balance(again, TAU).row("", "").verdict == "within"


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("independent", {"transitions", "time scales"}),
        ("unmoved", {"map", "transitions", "time scales"}),
        ("conditional mean", {"map", "transitions", "time scales"}),
    ],
)
def test_comparisons_of_torsions_refuse_wrong_samplers(well, reference, require, name, wrong):
    require("deeptime")
    found = judged(reference, Peptide.runs(well, wrong_samplers(well)[name]))
    assert wrong <= {row for row, verdict in found.items() if verdict != "within"}
    assert name != "independent" or found["populations"] == found["map"] == "within"


def test_a_minor_basin_has_to_be_right_by_its_own_measure(well, reference):
    # a hundredth more or less is nothing to a large basin, and all to a small one
    rare = well.trajectories(40, 2500, TAU, np.random.default_rng(8))
    psi = [one.copy() for one in Peptide.runs(well, rare).angles]
    flat = [one.copy() for one in reference.angles]
    for runs, share in ((psi, 0.03), (flat, 0.02)):
        for one in runs:
            one[:: round(1 / share), 0] = 60.0
    pair = [TorsionRuns.of(one, TAU, [(0, 1)], ["φ of ALA 2", "ψ of ALA 2"]) for one in (flat, psi)]
    assert compare_populations(*pair, rng()).row("", "").verdict == "outside"
    assert compare_populations(pair[0], pair[0], rng()).value == 0


def test_a_lag_between_frames_and_molecules_without_a_backbone_are_refused(reference):
    with pytest.raises(DataError, match="no multiple"):
        reference.lag(0.7)
    with pytest.raises(DataError, match="no residue"):
        TorsionRuns.of(reference.angles, TAU, [], [])


def test_sets_of_clusters_are_the_wells(well, exact, require):
    require("deeptime")
    features = [well.x[one][:, None] for one in exact]
    found = metastable_sets(features, 1, 30)
    right = well.p[well.x > 0].sum() > 0.5  # the first set is the most visited one
    inside = [found(one) == ((one[:, 0] > 0) != right) for one in features]
    assert found.count == 2
    assert np.mean(inside) > 0.97
    draws = [well.x[well.draw(2000, np.random.default_rng(seed))][:, None] for seed in range(4)]
    with pytest.raises(DataError, match="faster than the lag"):
        metastable_sets(draws, 1, 30)


def test_a_process_faster_than_five_lags_is_not_judged_by_its_time_scale(well, require):
    require("deeptime")
    slow = Peptide.runs(well, well.trajectories(10, 500, 10.0, rng()), 10.0)
    with pytest.raises(DataError, match="nearly an independent draw"):
        compare_timescales(slow, slow, 10.0, fit_clusters(slow.features, 30), rng(), (1,))


def test_intervals_of_time_scales_are_those_of_repeated_experiments(well, clusters, require):
    require("deeptime")
    chains = [well.trajectories(10, 1000, TAU, np.random.default_rng(seed)) for seed in range(20)]
    found = [implied_timescales(list(clusters[one]), [1], 30, rng(), processes=1) for one in chains]
    spread = np.std([np.log(one.values[0, 0]) for one in found], ddof=1)
    claimed = np.mean([np.log(one.upper[0, 0] / one.values[0, 0]) / 1.96 for one in found])
    assert claimed == pytest.approx(spread, rel=0.4)
