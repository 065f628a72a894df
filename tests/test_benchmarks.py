"""The benchmarks work: each runs in its smallest size. What they measure is no matter here; nothing is timed."""

import itertools
import json
import math
import random

import pytest
from click.testing import CliRunner

import projections
from eventstore.workflow import Phase
from tests.benchmarks import logs, pictures, profile, publishing, rebuilding, workload
from tests.benchmarks.__main__ import main, run
from tests.benchmarks.catalogue import BENCHMARKS
from tests.benchmarks.harness import Figure, Setting, ratio, take_turns


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """Each benchmark's outcome in its smallest size, made when first asked for."""
    made = {}

    def result(name):
        if name not in made:
            made[name] = run(name, size="smallest", folder=tmp_path_factory.mktemp(name))
        return made[name]

    return result


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_finds_figures_and_keeps_what_they_were_made_of(name, results):
    result = json.loads(json.dumps(results(name)))

    assert result["figures"]
    assert all(math.isfinite(figure["measured"]) for figure in result["figures"])
    assert all(values for values in result["samples"].values())


@pytest.mark.parametrize("picture", pictures.PICTURES)
def test_a_picture_is_drawn_from_what_its_benchmark_kept(picture, results, tmp_path):
    name, _ = pictures.PICTURES[picture]

    (drawn,) = [path for path in pictures.draw({name: results(name)}, tmp_path) if picture in path.name]

    assert "<svg" in drawn.read_text()


@pytest.mark.parametrize("name", ["summary", *BENCHMARKS])
def test_the_page_has_a_place_for_each_benchmark(name):
    assert f"<!-- figures: {name} -->" in publishing.PAGE.read_text()


def test_publishing_replaces_the_figures_it_has_and_leaves_the_others(tmp_path):
    page = tmp_path / "page.md"
    kept = {"summary": "old", "imports": "old", "two": "kept"}
    page.write_text("".join(f"<!-- figures: {name} -->\n{text}\n<!-- end -->\n" for name, text in kept.items()))
    figure = {"what": "speed", "measured": 1.234, "unit": "×", "target": 2.0, "dream": 1.0, "more_is_better": False}
    about = {"machine": {"processors": 2, "python": "3", "sqlite": "3"}, "when": "2026-01-01", "benchmark": "imports"}

    publishing.publish({"imports": {**about, "figures": [{**figure, "spread": [1.1, 1.3]}]}}, page)

    text = page.read_text()
    assert "old" not in text
    assert "kept" in text
    assert "| speed | 1.23× | 1.1 – 1.3 | ≤ 2 | ≤ 1 | reached |" in text
    assert "| speed | ≤ 2 | 1.23× | reached |" in text


@pytest.mark.parametrize(("load", "told"), [(1.9, False), (2.1, True)])
def test_the_page_tells_of_others_who_used_the_machine(load, told):
    machine = {"processors": 2, "python": "3", "sqlite": "3"}
    result = {"machine": machine, "when": "2026-01-01", "benchmark": "imports", "load": load, "figures": []}

    assert ("others used it too" in publishing.table(result)) is told
    assert ("others used the machine too" in publishing.summary({"imports": result})) is told


def test_the_command_lists_what_there_is():
    listed = CliRunner().invoke(main, ["--list"])

    assert [line.split()[0] for line in listed.output.splitlines()] == list(BENCHMARKS)


def test_an_unknown_benchmark_is_refused_by_name():
    refused = CliRunner().invoke(main, ["--only", "nonsense"])

    assert refused.exit_code == 2
    assert "there is no benchmark nonsense" in refused.output


def test_a_benchmark_that_fails_is_named_and_costs_the_others_nothing(tmp_path, monkeypatch):
    def measure(name, **_):
        if name == "lone":
            raise RuntimeError("the disk is full")
        return {"figures": []}

    monkeypatch.setattr("tests.benchmarks.__main__.run", measure)
    monkeypatch.setattr("tests.benchmarks.__main__.KEPT", tmp_path)
    told = CliRunner().invoke(main, ["--only", "lone", "--only", "batch", "--json", str(tmp_path / "all")])

    assert told.exit_code == 1
    assert "lone failed; the others are kept" in told.output
    assert json.loads((tmp_path / "batch.json").read_text()) == {"figures": []}
    assert json.loads((tmp_path / "all").read_text()) == {"batch": {"figures": []}}


def test_contenders_take_turns_and_the_warmup_is_not_kept():
    seen = []

    samples = take_turns({"a": lambda n: seen.append(("a", n)), "b": lambda n: seen.append(("b", n))}, 3, warmup=1)

    assert [number for _, number in seen] == [0, 0, 1, 1, 2, 2, 3, 3]
    assert {name: len(values) for name, values in samples.items()} == {"a": 3, "b": 3}


def test_a_ratio_says_what_the_noise_makes_of_it():
    figure = ratio("twice", [2.0] * 50 + [4.0] * 50, [1.0] * 100, target=2.0)

    assert (figure.measured, figure.spread, figure.verdict) == (3.0, (2.0, 4.0), "MISSED")


@pytest.mark.parametrize(
    ("measured", "more", "verdict"),
    [(1.0, False, "dream"), (1.5, False, "reached"), (3.0, False, "MISSED"), (3.0, True, "dream")],
)
def test_a_figure_knows_whether_it_is_where_it_should_be(measured, more, verdict):
    dream = 2.5 if more else 1.1

    assert Figure("it", measured, target=2.0, dream=dream, more_is_better=more).verdict == verdict


def test_the_workload_is_what_it_says():
    rows = list(workload.ready(20))
    mean = workload.sizes(20)
    first_eight = {row[1] for row in rows[:8]}

    assert len(rows) == 20 * workload.EVENTS_PER_RUN
    assert len(first_eight) == workload.AT_A_TIME
    assert {row[1] for row in rows[:200]} == first_eight
    assert [round(mean[name], -1) for name in ("ToolCalled", "ToolReturned")] == [260, 660]
    assert 3_900 < mean["CheckpointSaved"] < 4_300
    assert len({row[1] for row in rows if row[3] == "ConfirmationRequested"}) == 2


def test_a_log_of_any_size_holds_what_was_asked_for_and_its_tables_are_right(tmp_path, monkeypatch):
    monkeypatch.setattr(logs, "_MILLION", 60)

    path = logs.log_of(Setting(tmp_path, "smallest"), "log", 180)

    with projections.connect(path) as runs:
        assert len(list(runs.store.read_all())) == 180 + 8 * len(workload.cut_short(0, random.Random(1)))
        assert runs.workflow_runs.count(phase=Phase.STARTED) == len(runs.lost()) == 8
        assert runs.check().ok


def test_a_kept_log_is_not_changed_by_whoever_had_a_copy(tmp_path):
    setting = Setting(tmp_path, "smallest")
    path = logs.log_of(setting, "one", 60)
    with projections.connect(path) as runs:
        runs.submit("deploy", run_id="mine")

    with projections.connect(logs.log_of(setting, "other", 60)) as runs:
        assert runs.workflow_runs.get("mine") is None


def test_a_moment_belongs_to_the_innermost_stopwatch_that_runs():
    watches = profile._Stopwatches(now=itertools.count(step=10).__next__)
    inner = watches.timed("inner", lambda: None)

    watches.timed("outer", lambda: [inner(), inner()])()

    assert watches.taken == {"inner": 20, "outer": 30}
    assert (watches.calls["inner"], watches.within["outer"]) == (2, 2)


def test_what_a_stopwatch_costs_is_told_though_one_look_was_held_up():
    ticks = itertools.count()
    held_up = iter([0, 5_000])

    costs = profile._Stopwatches(now=lambda: 10 * next(ticks) + (next(held_up, 5_000))).costs()

    assert costs == (10, 10)


def test_a_long_wait_counts_for_those_who_would_have_come_meanwhile():
    waits = rebuilding.with_those_behind([0.001, 0.018, 0.004])

    assert [round(wait, 3) for wait in waits] == [0.001, 0.018, 0.013, 0.008, 0.003, 0.004]


def test_a_setting_gives_each_store_a_folder_of_its_own(tmp_path):
    setting = Setting(tmp_path, "quick")

    assert setting.path("one").parent != setting.path("two").parent
    assert setting.pick(smallest=1, quick=2, full=3) == 2
