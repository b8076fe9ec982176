"""Tables: graphs as the published data sets have them, training that continues exactly, results that can be trusted."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from architecture_cases import needs_e3nn

from fastegnn_md.errors import CheckpointError, ConfigError, DataError, TrainingError
from fastegnn_md.papers.datasets.nbody import ChargedSystemsRecipe, charged_systems
from fastegnn_md.papers.tables import definitions
from fastegnn_md.papers.tables.data import charged_graphs, mcomplex_graphs
from fastegnn_md.papers.tables.definitions import TABLES, Table
from fastegnn_md.papers.tables.graphs import GraphSet, complete_graphs
from fastegnn_md.papers.tables.rows import Row, Settings
from fastegnn_md.papers.tables.run import chosen_rows, parse_budget, read_results, run_table
from fastegnn_md.papers.tables.train import RowTraining

ROW = Row(
    "small",
    "nbody-small",
    "fastegnn",
    {"virtual_nodes": 2, "form": "published", "hidden": 8, "layers": 2},
    settings=Settings(epochs=6, batch_size=4, evaluate_every=2),
)
FOREVER = 1e9


@pytest.fixture(scope="module")
def systems():
    recipe = ChargedSystemsRecipe.nbody(6, systems=(10, 3, 3))
    recipe = ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 1))
    return charged_systems(recipe, progress=False)


@pytest.fixture
def data(systems):
    return {split: charged_graphs(one, 0.0) for split, one in systems.items()}


@pytest.fixture
def table(monkeypatch, systems):
    """Two rows of small systems, under the name table1."""
    rows = (ROW, Row("linear", "nbody-small", "linear", dropped=1.0, paper=0.1266, settings=ROW.settings))
    monkeypatch.setitem(TABLES, "table1", Table("Small", "A note.", rows))
    import fastegnn_md.papers.tables.data as module

    def load(dropped, folder, processes, progress):
        return {split: charged_graphs(one, dropped) for split, one in systems.items()}

    monkeypatch.setitem(module.DATA, "nbody-small", load)


def test_complete_graphs_join_every_pair_of_a_system_once():
    counts = torch.tensor([3, 1, 2])
    found = complete_graphs(torch.zeros(6, 3), counts).T.tolist()
    wanted = [[i, j] for nodes in ((0, 1, 2), (3,), (4, 5)) for i in nodes for j in nodes if i != j]
    assert found == wanted


def test_the_shortest_edges_of_every_system_stay(systems):
    for p, edges in ((0.0, 30), (0.75, 8), (0.9, 4), (1.0, 0)):  # three of thirty, and the reverse of the last
        batch = charged_graphs(systems["train"], p).batch([4, 2])
        assert batch.edge_index.shape[1] == 2 * edges
        for system in (0, 1):
            x = batch.x[batch.batch == system]
            lengths = torch.pdist(x).repeat_interleave(2).sort().values
            mine = batch.batch[batch.edge_index[0]] == system
            torch.testing.assert_close(batch.edge_attr[mine, 0].sort().values, lengths[:edges])


def test_batches_hold_the_systems_asked_for(systems):
    one = systems["train"]
    batch = charged_graphs(one, 0.5).batch([7, 0])
    for place, system in enumerate((7, 0)):
        rows = slice(one.offsets[system], one.offsets[system + 1])
        mine = batch.batch == place
        np.testing.assert_array_equal(batch.x[mine], one.x[rows])
        np.testing.assert_array_equal(batch.target[mine], one.target[rows])
        np.testing.assert_allclose(batch.h[mine, 0], np.linalg.norm(one.v[rows], axis=1), rtol=1e-6)
        np.testing.assert_array_equal(batch.h[mine, 1], one.charges[rows])


def test_systems_of_different_sizes_and_their_complexes():
    recipe = ChargedSystemsRecipe.mcomplex(2, 4, 3, systems=(6, 1, 1))
    recipe = ChargedSystemsRecipe(recipe.compositions, recipe.systems, frames=(0, 1))
    systems = charged_systems(recipe, progress=False)["train"]
    assert len(set(systems.counts.tolist())) > 1
    graphs = mcomplex_graphs(systems)
    assert graphs.batch([0]).local_edge_index is None
    batch = graphs.batch(range(6), local=True)
    assert batch.edge_index.shape[1] == sum(n * (n - 1) for n in systems.counts)
    q, body = torch.from_numpy(systems.charges), torch.from_numpy(systems.bodies)
    receiver, sender = batch.edge_index
    torch.testing.assert_close(batch.edge_attr[:, 2], q[receiver] * q[sender])
    same = body[receiver] == body[sender]
    assert torch.equal(batch.edge_attr[:, 3] == 1.0, same)
    assert torch.equal(batch.local_edge_index, batch.edge_index[:, same])


def test_training_learns(data, tmp_path):
    row = ROW.with_settings(epochs=60, learning_rate=1e-2, mmd_weight=0.0)
    training = RowTraining(row, data, tmp_path / "row", progress=False)
    before = training.mean_squared_error("train")
    training.run(FOREVER)
    assert training.mean_squared_error("train") < 0.5 * before


def test_linear_motion_learns_the_time_between_frames(data, tmp_path):
    row = Row("linear", "", "linear", settings=Settings(epochs=400, batch_size=10, learning_rate=0.02, patience=400))
    training = RowTraining(row, data, tmp_path / "row", progress=False)
    training.run(FOREVER)
    train = data["train"]
    displacement, v = train.target - train.x, train.v
    best = float((displacement * v).sum() / v.square().sum())
    assert training.model.time.item() == pytest.approx(best, abs=1e-3)


class Killed(BaseException):
    """Stands for a process that ends."""


@pytest.mark.parametrize("updates", [1, 6, 11])
def test_a_killed_run_continues_as_if_it_had_not_been(data, tmp_path, monkeypatch, updates):
    import fastegnn_md.papers.tables.train as module

    whole = RowTraining(ROW, data, tmp_path / "whole", progress=False)
    wanted = whole.run(FOREVER)
    monkeypatch.setattr(module, "_SAVE_EVERY", -1.0)
    killed = RowTraining(ROW, data, tmp_path / "killed", progress=False)
    step = killed._step

    def step_or_die():
        if killed.update == updates:
            raise Killed
        return step()

    monkeypatch.setattr(killed, "_step", step_or_die)
    with pytest.raises(Killed):
        killed.run(FOREVER)
    again = RowTraining(ROW, data, tmp_path / "killed", progress=False)
    assert again.update == updates
    found = again.run(FOREVER)
    assert (found.test, found.valid, found.best_epoch, found.updates) == (
        wanted.test,
        wanted.valid,
        wanted.best_epoch,
        wanted.updates,
    )
    for ours, theirs in zip(again.model.parameters(), whole.model.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_run_out_of_time_says_where_it_stands_and_goes_on(data, tmp_path):
    first = RowTraining(ROW, data, tmp_path / "row", progress=False)
    result = first.run(1e-9)
    assert (result.updates, result.finished) == (1, False)
    assert result.test == pytest.approx(first.mean_squared_error("test"))
    assert result.epochs == pytest.approx(0.4)
    whole = RowTraining(ROW, data, tmp_path / "whole", progress=False).run(FOREVER)
    later = RowTraining(ROW, data, tmp_path / "row", progress=False).run(FOREVER)
    assert (later.test, later.updates, later.finished) == (whole.test, whole.updates, True)
    again = RowTraining(ROW, data, tmp_path / "row", progress=False).run(FOREVER)
    assert (again.test, again.updates) == (whole.test, whole.updates)


def test_training_stops_where_validation_does_not_improve(data, tmp_path):
    row = Row("still", "", "linear", settings=Settings(epochs=50, batch_size=10, learning_rate=1e-30, patience=8))
    result = RowTraining(row, data, tmp_path / "row", progress=False).run(FOREVER)
    # the first validation, after 5 epochs, stays the best; 8 epochs later is epoch 13
    assert (result.best_epoch, result.epochs, result.finished) == (5.0, 13.0, True)


def test_test_errors_are_those_of_the_weights_best_on_validation(data, tmp_path):
    training = RowTraining(ROW, data, tmp_path / "row", progress=False)
    result = training.run(FOREVER)
    training.model.load_state_dict(training.best_weights)
    assert training.mean_squared_error("valid") == pytest.approx(result.valid, rel=1e-6)
    assert training.mean_squared_error("test") == pytest.approx(result.test, rel=1e-6)


def test_errors_are_means_over_systems(data, tmp_path, monkeypatch):
    import fastegnn_md.papers.tables.train as module

    training = RowTraining(ROW, data, tmp_path / "row", progress=False)
    at_once = training.mean_squared_error("train")
    monkeypatch.setattr(module, "_EVALUATION_NODES", 12)
    assert training.mean_squared_error("train") == pytest.approx(at_once, rel=1e-5)
    batch = data["train"].batch(range(10))
    with torch.no_grad():
        square = (training.model(**batch.inputs).x - batch.target).square().mean()
    assert at_once == pytest.approx(float(square), rel=1e-5)  # all of one size


def test_checkpoints_of_other_settings_or_damaged_are_refused(data, tmp_path):
    RowTraining(ROW, data, tmp_path / "row", progress=False).run(1e-9)
    with pytest.raises(CheckpointError, match="other settings"):
        RowTraining(ROW.with_settings(batch_size=5), data, tmp_path / "row", progress=False)
    content = (tmp_path / "row").read_bytes()
    (tmp_path / "row").write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="truncated"):
        RowTraining(ROW, data, tmp_path / "row", progress=False)


def test_a_loss_that_is_not_finite_ends_the_run(data, tmp_path):
    data["train"].target = torch.full_like(data["train"].target, float("nan"))
    with pytest.raises(TrainingError, match="update 0"):
        RowTraining(ROW, data, tmp_path / "row", progress=False).run(FOREVER)


def test_weights_do_not_touch_the_generator_of_the_caller(data, tmp_path):
    before = torch.random.get_rng_state()
    one, other = (RowTraining(ROW, data, tmp_path / "row", progress=False).model for _ in range(2))
    assert torch.equal(torch.random.get_rng_state(), before)
    for ours, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(ours, theirs)


def test_a_table_is_written_and_continued(table, tmp_path):
    run_table("table1", budget=2e-9, output=tmp_path, data=tmp_path, progress=False)
    first = json.loads((tmp_path / "table1.json").read_text())["rows"]
    assert [(row["row"], row["updates"], row["finished"]) for row in first] == [
        ("small", 1, False),
        ("linear", 1, False),
    ]
    path = run_table("table1", budget=FOREVER, output=tmp_path, data=tmp_path, progress=False)
    rows = {row["row"]: row for row in json.loads((tmp_path / "table1.json").read_text())["rows"]}
    assert rows["small"]["finished"]
    assert rows["small"]["epochs"] == 6.0
    assert rows["linear"]["paper"] == 0.1266
    lines = path.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith("| linear")]
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[1] == "0.1266"
    assert float(cells[2]) == pytest.approx(rows["linear"]["test"], rel=1e-3)
    assert cells[3] == "6 / 6"


def test_rows_can_be_chosen_and_the_others_stay(table, tmp_path):
    run_table("table1", budget=1e-9, output=tmp_path, data=tmp_path, only="linear", progress=False)
    run_table("table1", budget=1e-9, output=tmp_path, data=tmp_path, only="small", batch_size=5, progress=False)
    rows = json.loads((tmp_path / "table1.json").read_text())["rows"]
    assert [(row["row"], row["batch size"]) for row in rows] == [("small", 5), ("linear", 4)]
    with pytest.raises(ConfigError, match="no row of table1 fits"):
        chosen_rows("table1", "nothing")
    with pytest.raises(ConfigError, match="unknown table"):
        chosen_rows("table9")


def test_rows_whose_data_are_missing_are_named(table, tmp_path, monkeypatch):
    monkeypatch.setenv("MDANALYSIS_DATA", str(tmp_path))
    rows = (*TABLES["table1"].rows, *(Row(f"protein {p}", "adk", "linear", dropped=p) for p in (0.5, 1.0)))
    monkeypatch.setitem(TABLES, "table1", Table("Small", "A note.", rows))
    with pytest.warns(UserWarning, match="'protein 0.5' and 1 more rows: the AdK equilibrium"):
        run_table("table1", budget=1e-9, output=tmp_path, data=tmp_path, progress=False)
    assert set(read_results(tmp_path / "table1.json")) == {"small", "linear"}
    with pytest.raises(DataError, match="AdK equilibrium"):
        run_table("table1", budget=1e-9, output=tmp_path, data=tmp_path, only="protein *", progress=False)


def test_a_damaged_result_is_refused_and_kept(table, tmp_path):
    (tmp_path / "table1.json").write_text('{"rows": [')
    with pytest.raises(DataError, match="no result of a table"):
        run_table("table1", budget=1e-9, output=tmp_path, data=tmp_path, progress=False)
    assert (tmp_path / "table1.json").read_text() == '{"rows": ['
    assert read_results(tmp_path / "none.json") == {}


@pytest.mark.parametrize(("text", "seconds"), [("90 min", 5400.0), ("2h", 7200.0), (".5 s", 0.5)])
def test_budgets(text, seconds):
    assert parse_budget(text) == seconds


@pytest.mark.parametrize("text", ["", "3", "2 weeks", "-1 h", "0 s"])
def test_budgets_that_are_none(text):
    with pytest.raises(ConfigError, match="budget"):
        parse_budget(text)


def test_a_device_that_is_not_there(table, tmp_path):
    with pytest.raises(ConfigError, match="unknown device"):
        run_table("table1", budget=1.0, output=tmp_path, data=tmp_path, device="tpu")


@pytest.mark.parametrize("name", sorted(TABLES))
def test_every_row_names_data_and_a_network_that_can_be_built(name, require):
    from fastegnn_md.papers.tables.data import DATA
    from fastegnn_md.papers.tables.train import build_network

    rows = definitions.TABLES[name].rows
    assert len({row.name for row in rows}) == len(rows)
    example = GraphSet(
        np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((4, 3)), np.zeros((4, 2)), np.array([4]), complete_graphs
    ).batch([0])
    for row in rows:
        assert row.data in DATA
        if needs_e3nn(row.model):
            require("e3nn")
        build_network(row, example)


def test_relative_times_are_over_egnn_with_all_edges():
    from fastegnn_md.models import available_models
    from fastegnn_md.papers.tables.timing import relative_times, short_adk

    rows = {row["model"]: row for row in relative_times(short_adk(), repeats=1, dropped=(0.9, 1.0))}
    assert {"egnn", "fastegnn", "linear", "rf", "schnet", "eghn"} <= set(rows) <= set(available_models())
    assert rows["egnn"]["relative"]["0.9"] == 1.0
    for row in rows.values():
        for p in ("0.9", "1"):
            assert row["relative"][p] == pytest.approx(row["ms"][p] / rows["egnn"]["ms"]["0.9"])


def test_written_relative_times_say_what_computed_fastegnn(monkeypatch, tmp_path):
    from fastegnn_md.papers.tables import timing

    row = {
        "model": "egnn",
        "ms": {f"{p:g}": 2.0 for p in timing.DROPPED},
        "relative": {f"{p:g}": 1.0 for p in timing.DROPPED},
    }
    monkeypatch.setattr(timing, "short_adk", lambda: None)
    monkeypatch.setattr(timing, "relative_times", lambda steps, device: [row])
    for found, said in ((object(), "C++ library"), (None, "operations of torch")):
        monkeypatch.setattr(timing, "library", lambda found=found: found)
        page = timing.write_relative_times(tmp_path, "cpu").read_text()
        assert f"FastEGNN: {said}." in page
        assert json.loads((tmp_path / "table1-times.json").read_text())["machine"]["fastegnn"] == said


def test_calls_are_made_in_turn():
    from fastegnn_md.papers.tables.timing import in_turn

    made = []
    times = in_turn({"a": lambda: made.append("a"), "b": lambda: made.append("b")}, 4)
    assert made == ["a", "b"] * 7
    assert [len(one) for one in times.values()] == [4, 4]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["table9"], "unknown table 'table9'"),
        (["table1", "--budget", "soon"], "cannot read the budget 'soon'"),
        (["table1", "--only", "nothing"], "no row of table1 fits 'nothing'"),
    ],
)
def test_mistakes_on_the_command_line(arguments, message, capsys):
    from fastegnn_md.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_command_prints_what_it_wrote(table, tmp_path, capsys, monkeypatch):
    from fastegnn_md.cli import main

    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main(["bench", "table1", "--budget", "0.001 s", "--only", "linear", "-o", "results", "--data", "."])
    assert ended.value.code == 0
    assert (tmp_path / "results" / "table1.md").read_text() in capsys.readouterr().out


def test_a_row_of_fewer_epochs_than_lie_between_validations(data, tmp_path):
    result = RowTraining(ROW.with_settings(epochs=1), data, tmp_path / "row", progress=False).run(FOREVER)
    assert (result.updates, result.best_epoch, result.finished) == (3, 1.2, True)
