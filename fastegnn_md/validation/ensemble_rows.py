"""Checks that hold learned runs against the spread of reference runs: what the dynamics samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import DataError
from ..report.page import Table
from .case import PIECES, Case, pools
from .observables.constraints import ConstraintViolation
from .observables.diffusion import Diffusion
from .observables.distances import WIDTH, PairDistances, element_pairs, radial_distribution
from .observables.ensembles import kinetic_energy_check
from .observables.temperature import ElementTemperatures
from .observables.tica import TorsionFeatures, fit_components
from .observables.torsions import (
    BINS,
    JOINT_BINS,
    Torsions,
    find_torsions,
    joint_histograms,
    torsion_angles,
    torsion_histograms,
)
from .observables.vdos import VelocityDensityOfStates
from .rows import Finding, Plot
from .run import Run
from .statistics import LARGEST, Sample, bootstrap_interval, mean_jensen_shannon, pool

TEMPERATURE_LIMIT = 0.05  # relative, where the reference has no velocities
KINETIC_P = 0.01
VIOLATION = 1e-4  # relative; less is the rounding of files
_COARSEST = 0.02  # ps between frames of a spectrum: 830 1/cm
_SEGMENT = 2.0  # ps, of a spectrum: a resolution of 17 1/cm


def temperature(case: Case) -> Finding:
    """Largest relative deviation of the temperature of an element."""
    if case.both_have_velocities():
        samples = _temperatures(case)
        learned, reference = pools(samples)
        runs = np.array([sample.values for sample in samples[1]])
        table = Table(
            ["element", "learned, K", "95 % interval, K", "reference, K", "reference runs, K", "learned / reference"],
            [
                [symbol, float(a), _interval(case, samples[0], k), float(b), _range(runs[:, k]), float(a / b)]
                for k, (symbol, a, b) in enumerate(zip(case.symbols, learned, reference, strict=True))
            ],
            "2 K / f k_B, with the degrees of freedom f that held distances leave to the atoms of an element.",
        )
        return Finding.of(case.compare(samples, _largest_ratio), case.factor, tables=(table,))
    if case.temperature is None:
        raise DataError("the reference has no velocities; give it as TRR, NCDF or H5MD, or give --temperature")
    target = case.temperature
    blocks = [
        Sample(_element_temperatures(case)(block), block.n_frames) for run in case.learned for block in run.cut(PIECES)
    ]
    learned = pool(blocks)
    table = Table(
        ["element", "learned, K", "95 % interval, K", "learned / thermostat"],
        [
            [symbol, float(a), _interval(case, blocks, k), float(a / target)]
            for k, (symbol, a) in enumerate(zip(case.symbols, learned, strict=True))
        ],
        "2 K / f k_B, with the degrees of freedom f that held distances leave to the atoms of an element.",
    )

    def deviation(values: np.ndarray) -> float:
        return float(np.abs(values / target - 1).max())

    return Finding(
        deviation(learned),
        TEMPERATURE_LIMIT,
        f"the reference has no velocities: held against {target:g} K; limit: stated",
        interval=_from_zero(bootstrap_interval(blocks, deviation, case.rng)),
        tables=(table,),
    )


def equipartition(case: Case) -> Finding:
    """How much hotter the hottest element is than the coldest, each over its temperature in the reference."""
    if len(case.symbols) < 2:
        raise DataError("there is one element only")
    if not case.both_have_velocities():
        raise DataError("the reference has no velocities; see the row temperature")
    return Finding.of(case.compare(_temperatures(case), _unevenness), case.factor)


def kinetic_energy(case: Case) -> Finding:
    """The p of physical_validation's test of the kinetic energy."""
    if case.temperature is None:
        raise DataError("without a thermostat there is no canonical ensemble; give --temperature")
    case.both_have_velocities()
    target, pairs = case.temperature, case.rigid[0]
    rows: list[list[object]] = []
    checks = {}
    for name, runs in (("learned", case.learned), ("reference", case.reference)):
        if not all(run.has_velocities for run in runs):
            continue
        results = [run.analyse(ElementTemperatures(run.atoms, pairs)).results for run in runs]
        series = np.concatenate([result.kinetic_energy for result in results])
        checks[name] = kinetic_energy_check(series, target, float(results[0].degrees_of_freedom.sum()))
        rows.append([name, checks[name].p, checks[name].from_mean, checks[name].from_deviation])
    columns = ["", "p", "T of the mean, K", "T of the standard deviation, K"]
    caption = f"Kinetic energies of uncorrelated frames beside the canonical ensemble at {target:g} K."
    note = "limit: stated; a smaller p is unlikely for a canonical ensemble"
    if "reference" in checks and checks["reference"].p < KINETIC_P:
        note += f"; the reference itself has {checks['reference'].p:.2g}"
    return Finding(
        checks["learned"].p,
        KINETIC_P,
        note,
        at_least=True,
        tables=(Table(columns, rows, caption),),
    )


def pair_distances(case: Case) -> Finding:
    """∫ |h − h_ref| dr."""
    if case.periodic:
        raise DataError("periodic: see the row g(r)")
    first = case.reference[0]
    longest = 1.5 * _largest_distance(first)

    def measure(run: Run) -> np.ndarray:
        return run.analyse(PairDistances(run.atoms, longest)).results.density

    samples = case.samples("h(r)", measure)
    bins = (np.arange(len(samples[0][0].values)) + 0.5) * WIDTH
    comparison = case.compare(samples, lambda a, b: float(np.abs(a - b).sum() * WIDTH))
    return Finding.of(comparison, case.factor, largest=2.0, plots=(_plot(bins, samples, "r / Å", "h(r) / 1/Å"),))


def radial_distributions(case: Case) -> Finding:
    """Mean of |g − g_ref| over r and pairs of elements."""
    if not case.periodic:
        raise DataError("isolated: see the row h(r)")
    first = case.reference[0]
    with first.first_frame():
        longest = float(0.5 * first.atoms.dimensions[:3].min())
    names = list(element_pairs(first.atoms))

    def measure(run: Run) -> np.ndarray:
        groups = element_pairs(run.atoms).values()
        return np.array([run.analyse(radial_distribution(*pair, longest)).results.rdf for pair in groups])

    samples = case.samples("g(r)", measure)
    learned, reference = pools(samples)
    r = (np.arange(learned.shape[1]) + 0.5) * longest / learned.shape[1]
    plots = tuple(
        Plot(r, {"reference": reference[k], "learned": learned[k]}, "r / Å", f"g(r) of {name}")
        for k, name in enumerate(names)
    )
    comparison = case.compare(samples, lambda a, b: float(np.abs(a - b).mean()))
    return Finding.of(comparison, case.factor, plots=plots)


def vibrations(case: Case) -> Finding:
    """½ ∫ |S − S_ref| dν, spectra of stored velocities."""
    if not case.both_have_velocities():
        raise DataError("the reference has no velocities; see the row vdos-dx")
    return _spectra(case, "stored")


def vibrations_of_positions(case: Case) -> Finding:
    """½ ∫ |S − S_ref| dν, spectra of the displacements between frames."""
    return _spectra(case, "central")


def _spectra(case: Case, velocities: str) -> Finding:
    spacing, reference, learned = case.in_step()
    if spacing > _COARSEST:
        raise DataError(
            f"frames {spacing:g} ps apart know nothing of vibrations; save them every {_COARSEST:g} ps or more often"
        )
    shortest = min([run.n_frames for run in reference] + [b.n_frames for run in learned for b in run.cut(PIECES)])
    # central differences lose a frame at each end
    segment = min(_SEGMENT, (shortest - 2) * spacing)

    def spectrum(run: Run) -> VelocityDensityOfStates:
        analysis = VelocityDensityOfStates(run.atoms, velocities, segment)
        run.analyse(analysis)
        return analysis

    samples = case.samples(
        f"vdos of {velocities} velocities", lambda run: spectrum(run).results.density, reference, learned
    )
    frequencies = spectrum(reference[0]).results.frequencies
    comparison = case.compare(samples, lambda a, b: float(0.5 * np.abs(a - b).sum() * frequencies[1]))
    plot = _plot(frequencies, samples, "wavenumber / 1/cm", "density of states / cm")
    return Finding.of(comparison, case.factor, largest=1.0, plots=(plot,))


def diffusion(case: Case) -> Finding:
    """Relative deviation of the diffusion coefficient."""
    if not case.periodic:
        raise DataError("isolated: the diffusion of a molecule in vacuum belongs to the thermostat")
    _, reference, learned = case.in_step()
    blocks = [block for run in learned for block in run.cut(PIECES)]
    frames = min(run.n_frames for run in [*reference, *blocks])

    def measure(run: Run) -> np.ndarray:
        result = run.analyse(Diffusion(run.atoms)).results
        return np.concatenate([[result.diffusion], result.msd[:frames]])

    samples = case.samples("msd", measure, reference, learned)
    ours, theirs = pools(samples)
    runs = [float(sample.values[0]) for sample in samples[1]]
    lags = reference[0].spacing * np.arange(frames)
    table = Table(
        ["", "D, Å²/ps", "range"],
        [
            ["learned", float(ours[0]), _interval(case, samples[0], 0)],
            ["reference", float(theirs[0]), _range(np.array(runs))],
        ],
        "From the slope of the mean squared displacement between 10 % and 50 % of the longest lag. Range: 95 % "
        "confidence interval of the learned value, smallest and largest of the reference runs.",
    )
    plot = Plot(lags, {"reference": theirs[1:], "learned": ours[1:]}, "lag / ps", "mean squared displacement / Å²")
    comparison = case.compare(samples, lambda a, b: float(abs(a[0] / b[0] - 1)))
    return Finding.of(comparison, case.factor, tables=(table,), plots=(plot,))


def torsions(case: Case) -> Finding:
    """Jensen-Shannon distance of the distribution of a torsion, 100 bins, mean over torsions."""
    names = _torsions(case.reference[0]).names
    samples = case.samples("torsions", lambda run: torsion_histograms(_angles(run)))
    learned, reference = pools(samples)
    centres = -180 + (np.arange(BINS) + 0.5) * 360 / BINS
    each = [mean_jensen_shannon(learned[k : k + 1], reference[k : k + 1]) for k in range(len(names))]
    table = Table(["torsion", "Jensen-Shannon distance"], [list(pair) for pair in zip(names, each, strict=True)])
    worst = np.argsort(each)[::-1][:4]
    plots = tuple(
        Plot(centres, {"reference": reference[k], "learned": learned[k]}, f"{names[k]}, degrees", "share of frames")
        for k in worst
    )
    comparison = case.compare(samples, mean_jensen_shannon)
    return Finding.of(comparison, case.factor, largest=LARGEST, tables=(table,), plots=plots)


def joint_torsions(case: Case) -> Finding:
    """Jensen-Shannon distance of the joint distribution of φ and ψ, 50 × 50 bins, mean over residues."""
    pairs = _torsions(case.reference[0]).pairs
    if not pairs:
        raise DataError("no residue has φ and ψ")
    samples = case.samples("joint torsions", lambda run: joint_histograms(_angles(run), pairs))
    return Finding.of(case.compare(samples, mean_jensen_shannon), case.factor, largest=LARGEST)


def slow_components(case: Case) -> Finding:
    """Jensen-Shannon distance in the plane of the two slowest components of the torsions, 50 × 50 bins."""
    if case.tica_lag is None:
        raise DataError("not asked for; give --tica and a lag")
    series = [_features(run) for run in case.reference]
    lag = round(case.tica_lag / case.reference[0].spacing)
    model = fit_components(series, lag)
    known = np.concatenate([model.transform(one) for one in series])
    dimension = known.shape[1]
    # the outermost bins reach far: learned frames may lie beyond what the reference has visited
    edges = [
        np.concatenate([[-np.inf], np.linspace(low, high, JOINT_BINS - 1), [np.inf]])
        for low, high in zip(known.min(axis=0), known.max(axis=0), strict=True)
    ]

    def measure(run: Run) -> np.ndarray:
        places = model.transform(_features(run))
        cells = [np.searchsorted(edges[k][1:-1], places[:, k]) for k in range(dimension)]
        index = np.ravel_multi_index(cells, (JOINT_BINS,) * dimension)
        return np.bincount(index, minlength=JOINT_BINS**dimension)[None] / len(places)

    samples = case.samples("tica", measure)
    ours, theirs = (one.reshape((JOINT_BINS,) * dimension) for one in pools(samples))
    scales = model.timescales(lagtime=case.tica_lag)[:dimension]
    table = Table(
        ["component", "time scale in the reference, ps"], [[k + 1, float(scale)] for k, scale in enumerate(scales)]
    )
    first = ours.reshape(JOINT_BINS, -1).sum(axis=1), theirs.reshape(JOINT_BINS, -1).sum(axis=1)
    centres = 0.5 * (edges[0][1:-2] + edges[0][2:-1])
    plot = Plot(
        centres, {"reference": first[1][1:-1], "learned": first[0][1:-1]}, "slowest component", "share of frames"
    )
    comparison = case.compare(samples, mean_jensen_shannon)
    return Finding.of(comparison, case.factor, largest=LARGEST, tables=(table,), plots=(plot,))


def constraint_violation(case: Case) -> Finding:
    """RMS relative deviation of held distances."""
    pairs, lengths = case.rigid
    if not len(pairs):
        raise DataError("the reference holds no distance fixed (or the topology has no bonds)")

    def measure(run: Run) -> np.ndarray:
        result = run.analyse(ConstraintViolation(run.atoms, pairs, lengths)).results
        return np.array([np.mean(result.rms**2)])

    samples = case.samples("constraints", measure)
    ours, theirs = (float(np.sqrt(one[0])) for one in pools(samples))
    interval = bootstrap_interval(samples[0], lambda values: float(np.sqrt(values[0])), case.rng)
    return Finding(
        ours,
        max(VIOLATION, case.factor * theirs),
        f"limit: {case.factor:g} times {theirs:.2g} of the reference, or {VIOLATION:g}; {len(pairs)} held distances",
        interval=_from_zero(interval),
    )


def _temperatures(case: Case) -> tuple[list[Sample], list[Sample]]:
    return case.samples("temperature", _element_temperatures(case))


def _element_temperatures(case: Case) -> Callable[[Run], np.ndarray]:
    pairs = case.rigid[0]
    return lambda run: run.analyse(ElementTemperatures(run.atoms, pairs)).results.temperatures.mean(axis=0)


def _largest_ratio(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.abs(a / b - 1).max())


def _unevenness(a: np.ndarray, b: np.ndarray) -> float:
    ratio = a / b
    return float(ratio.max() / ratio.min() - 1)


def _torsions(run: Run) -> Torsions:
    with run.first_frame():
        return find_torsions(run.atoms)


def _angles(run: Run) -> np.ndarray:
    with run.first_frame():
        return torsion_angles(find_torsions(run.atoms).groups, start=run.start, stop=run.stop, step=run.step)


def _features(run: Run) -> np.ndarray:
    return run.analyse(TorsionFeatures(_torsions(run).groups)).results.features


def _largest_distance(run: Run) -> float:
    with run.first_frame():
        x = run.atoms.positions.astype(np.float64)
    # no pair is further apart than twice the radius about any point
    return float(2 * np.linalg.norm(x - x.mean(axis=0), axis=1).max()) + 1.0


def _interval(case: Case, samples: list[Sample], k: int) -> str:
    ends = bootstrap_interval(samples, lambda values: float(values[k]), case.rng)
    return "–" if ends is None else f"{ends[0]:.4g} to {ends[1]:.4g}"


def _range(values: np.ndarray) -> str:
    return f"{values.min():.4g} to {values.max():.4g}"


def _from_zero(interval: tuple[float, float] | None) -> tuple[float, float] | None:
    return None if interval is None else (max(0.0, interval[0]), interval[1])


def _plot(x: np.ndarray, samples: tuple[list[Sample], list[Sample]], x_label: str, y_label: str) -> Plot:
    learned, reference = pools(samples)
    return Plot(x, {"reference": reference, "learned": learned}, x_label, y_label)
