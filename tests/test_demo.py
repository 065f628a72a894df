"""The demo proves what it says, and says so when it is not true."""

import json
import sys
from contextlib import closing
from pathlib import Path

import pytest
from click.testing import CliRunner

import eventstore
from eventstore.sqlite import sqlite3
from projections import Runs
from projections.cli.demo import demo
from projections.cli.demo.supervisor import Supervisor
from projections.cli.demo.traces import load, samples, write

PLANTED = Path(__file__).parent / "planted"


def performed(tmp_path, seed, *, kills, worker=None, runs=3):
    with eventstore.connect("memory:") as store:
        traces = samples(seed, store.gate.codec, count=runs)
    command = {} if worker is None else {"worker": (sys.executable, str(PLANTED / worker))}
    return Supervisor(tmp_path / "demo.db", traces, kills=kills, seed=seed, **command).run()


@pytest.mark.parametrize("seed", range(2))
def test_killed_again_and_again_nothing_is_lost_or_done_twice_and_nobody_is_stuck(tmp_path, seed):
    outcome = performed(tmp_path, seed, kills=8)

    assert outcome.wrong == []
    assert outcome.kills == 8
    assert outcome.lines - outcome.kills * 4 <= outcome.acknowledged <= outcome.lines  # four runs at a time
    assert all(run.phase == "completed" for run in outcome.runs)
    assert outcome.backed_up == outcome.entries
    assert 0 < outcome.archived < outcome.entries  # the last entry of each stream stays
    assert outcome.put_back == outcome.archived


def test_an_append_acknowledged_before_its_commit_is_found(tmp_path):
    outcome = performed(tmp_path, 1, kills=8, worker="acknowledges_before_commit.py")

    assert any("was acknowledged and is not in the log" in wrong for wrong in outcome.wrong)


def test_a_fence_that_is_not_checked_is_found(tmp_path):
    outcome = performed(tmp_path, 1, kills=8, worker="checks_no_fence.py")

    assert any("was not fenced off" in wrong for wrong in outcome.wrong)


def test_a_projection_that_skips_an_event_is_found(tmp_path):
    outcome = performed(tmp_path, 1, kills=2, worker="skips_an_event.py")

    assert any("usage[sample-1]" in wrong and "should be 'there'" in wrong for wrong in outcome.wrong)


@pytest.mark.parametrize("step", ["archive", "restore_days"])
def test_an_entry_that_archiving_or_putting_back_changes_is_found(tmp_path, monkeypatch, step):
    does = getattr(Runs, step)

    def changes(runs, **options):
        done = does(runs, **options)
        with closing(sqlite3.connect(runs.store.log.url)) as database:
            database.execute("DROP TRIGGER events_keep")
            database.execute("UPDATE events SET data = json_set(data, '$.planted', 1) WHERE typeof(data) = 'text'")
            database.commit()
        return done

    monkeypatch.setattr(Runs, step, changes)

    outcome = performed(tmp_path, 1, kills=0, runs=1)

    assert any("reads otherwise" in wrong for wrong in outcome.wrong)


def test_the_command_performs_sample_runs_and_exits_0():
    result = CliRunner().invoke(demo, ["--kills", "1", "--seed", "5", "--json"])

    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["ok"] is True


def test_the_command_performs_traces_that_were_written_by_others(tmp_path):
    path = tmp_path / "traces.jsonl"
    with eventstore.connect("memory:") as store:
        write(path, samples(7, store.gate.codec, count=1), store.gate.codec)
        assert load([path], store.gate.codec) == samples(7, store.gate.codec, count=1)

    result = CliRunner().invoke(demo, [str(path), "--kills", "1", "--seed", "5"])

    assert result.exit_code == 0, result.output
    assert "Nothing lost, nothing twice, nobody stuck." in result.output


def test_a_trace_that_is_none_is_refused_with_its_line(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text('{"stream": "a", "type": "RunQueued", "data": {"workflow": "w"}}\n{"stream": "a"}\n')

    result = CliRunner().invoke(demo, [str(path)])

    assert result.exit_code == 1
    assert "holds no event in line 2" in result.output
