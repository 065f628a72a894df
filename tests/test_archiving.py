"""Old days leave the log for files, and nothing that can be read changes by it."""

import io
import shutil
import tracemalloc
from weakref import ref

import orjson
import pytest
from attrs import evolve

from eventstore import RUN, EventStore, LogRecorded, archiving
from eventstore.errors import (
    ArchiveBusy,
    CannotOpen,
    DamagedSegment,
    ImportRefused,
    InvalidArgument,
    KeyReused,
    RunExists,
    SegmentMissing,
    UnreadableEntry,
)
from eventstore.exchange import export_lines, import_lines
from eventstore.log import Span
from eventstore.memory import MemoryLog
from eventstore.segments import day_of
from eventstore.workflow import CheckpointSaved, MessageRecorded, RunCompleted, RunDescribed, RunQueued, RunStarted
from projections.workflow_runs import WORKFLOW_RUNS
from tests.archived import DAYS, ENDED, GOING, Killed, StepFiles, Steps, everything, lived
from tests.world import Refusal, World, forge

DAY = 86_400_000_000
LINE = LogRecorded("app", "line")


@pytest.fixture
def daemon(world, runs):
    """A daemon's log of some days."""
    lived(world, runs)
    return runs


def head(runs):
    return runs.store.head().position


def standing(runs):
    with runs.store.reading() as reading:
        return reading.standing(1, reading.head().position)


def hot(runs, stream):
    """The versions of a stream that the log itself holds."""
    with runs.store.reading() as reading:
        return [entry.version for entry in reading.read(stream, after=0, limit=9_999)
                if reading.standing(entry.position, entry.position)]  # fmt: skip


def path_of(runs, day):
    return runs.store.log.archive.path(f"{day}.jsonl")


def file_of(runs, day):
    return runs.store.log.archive.files.read(path_of(runs, day))


def put(runs, day, data):
    """Put other bytes in a segment's place, as somebody with an editor would; None takes the file away."""
    files = runs.store.log.archive.files
    files.remove(path_of(runs, day))
    if data is not None:
        files.put(path_of(runs, day), data)


def days(runs):
    return [segment.day for segment in runs.segments()]


# --- nothing changes for who reads --------------------------------------------------------------------------------


@pytest.mark.parametrize("compress", [False, True], ids=["plain", "compressed"])
def test_after_archiving_everything_reads_as_before_in_this_process_and_in_the_next(world, daemon, compress):
    until = head(daemon)
    before = everything(daemon, until)

    done = daemon.archive(keep_days=0, compress=compress)

    assert [segment.day for segment in done.sealed] == [*DAYS]
    assert standing(daemon) == head(daemon) - done.released < until
    assert everything(daemon, until) == before
    assert everything(world.runs(), until) == before


def test_an_archived_log_is_checked_rebuilt_and_verified(world, daemon):
    daemon.archive(keep_days=0)
    runs = world.runs()

    assert runs.check().ok
    assert runs.rebuild().ok
    verification = runs.verify()
    assert (verification.findings, verification.entries) == ((), head(runs))


def test_entries_at_many_places_take_one_look_at_each_block(filed):
    _, runs = filed
    runs.archive(keep_days=0)
    archive, looks = runs.store.log.archive, []
    lines = archive.lines
    archive.lines = lambda segment, block: looks.append((segment.day, block.first)) or lines(segment, block)

    with runs.store.reading() as reading:
        last = runs.segments()[-1].last
        assert [entry.position for entry in reading.at(range(1, last + 1, 2))] == [*range(1, last + 1, 2)]
    assert len(looks) == len({*looks}) > 1


def test_an_archived_log_is_followed_from_its_beginning(daemon):
    until = head(daemon)
    daemon.archive(keep_days=0)

    followed = daemon.store.follow()

    assert [next(followed).position for _ in range(until)] == list(range(1, until + 1))


def test_a_released_run_is_described_and_continued(world, daemon):
    checkpoint = daemon.checkpoint("run-1")
    daemon.archive(keep_days=0)
    runs = world.runs()

    runs.store.stream("run-1").append(RunDescribed("seen again"), key="again")
    child = runs.continue_from("run-1", run_id="run-9", workflow="again")

    assert runs.workflow_runs.get("run-1").title == "seen again"
    assert runs.worker("w").claim(["again"]).checkpoint == checkpoint
    assert runs.workflow_runs.get(child).continues_id == "run-1"
    assert runs.verify().ok


def test_an_exported_archived_log_makes_the_same_log_elsewhere(world, daemon, tmp_path):
    daemon.archive(keep_days=0)
    file = tmp_path / "log.jsonl"
    file.write_bytes(b"".join(export_lines(daemon.store, [*ENDED, GOING, "notes", "named"])))

    other = world.runs(log=MemoryLog())
    with file.open("rb") as lines:
        import_lines(other.store, lines)

    assert other.checkpoint("run-1") == daemon.checkpoint("run-1")
    assert other.verify().ok


# --- what is sealed -----------------------------------------------------------------------------------------------


def test_midnight_is_the_new_day_and_a_microsecond_before_it_the_old_one(world, runs):
    start = world.microseconds
    for moment in (start, start + DAY - 1, start + DAY, start + 2 * DAY):
        world.microseconds = moment
        runs.store.append("notes", LINE)

    runs.archive(keep_days=0)

    assert [(s.day, s.first, s.last) for s in runs.segments()] == [("2026-01-01", 1, 2), ("2026-01-02", 3, 3)]


def test_a_day_is_over_at_midnight_and_not_a_microsecond_before(world, runs):
    runs.store.append("notes", LINE)
    world.jumps(days=1, microseconds=-1)
    assert runs.archive(keep_days=0).sealed == ()

    world.jumps(microseconds=1)
    assert [segment.day for segment in runs.archive(keep_days=0).sealed] == ["2026-01-01"]


def test_days_without_entries_have_no_segment_and_an_idle_log_does_not_grow(world, runs):
    runs.store.append("notes", LINE)
    for _ in range(4):
        world.jumps(days=1)
        runs.archive(keep_days=0)

    assert days(runs) == ["2026-01-01"]
    assert head(runs) == 2

    runs.store.append("notes", LINE)
    world.jumps(days=3)
    runs.archive(keep_days=0)
    assert days(runs) == ["2026-01-01", "2026-01-02", "2026-01-05"]


def test_a_file_is_readable_with_head_and_its_last_line_says_what_it_holds(daemon):
    daemon.archive(keep_days=0)
    *lines, closing = map(orjson.loads, file_of(daemon, DAYS[0]).splitlines())
    segment = daemon.segments()[0]

    assert [line["position"] for line in lines] == list(range(segment.first, segment.last + 1))
    assert lines[0]["stream"] == "run-1"
    assert lines[0]["data"]["input"] == {"n": 1}
    assert lines[0]["recorded_at"] == "2026-01-01T00:00:00.000000Z"
    assert (closing["day"], closing["count"], closing["log"]) == (DAYS[0], len(lines), daemon.store.log.id)
    assert closing["after"] == lines[-1]["hash"]
    assert closing["sha256"] == segment.digest.hex()


def test_sealing_is_told_in_the_log(daemon):
    daemon.archive(keep_days=0, max_days=1)

    (note,) = [entry for entry in daemon.logs.each() if entry.kind == "segment-sealed"]
    assert (note.stream, note.source, note.ref) == ("runfold", "runfold", DAYS[0])
    assert note.payload["file"] == f"{DAYS[0]}.jsonl"


def test_what_may_leave_is_told_one_by_one_in_bounded_memory(runs):
    runs.store.append("notes", *(LogRecorded("app", "line", None, number) for number in range(4_000)))

    with runs.store.reading() as reading:
        tracemalloc.start()
        leaving = reading.leaving("notes", after=0, until=4_000, spared=8, limit=3_990)
        assert sum(1 for _ in leaving) == 3_990
        assert tracemalloc.get_traced_memory()[1] < 50_000
        tracemalloc.stop()


def test_max_days_seals_the_oldest_and_says_how_many_are_left(daemon):
    done = daemon.archive(keep_days=0, max_days=1)

    assert [segment.day for segment in done.sealed] == [DAYS[0]]
    assert done.days_left == 2
    assert [segment.day for segment in daemon.archive(keep_days=0, max_days=9).sealed] == [*DAYS[1:]]


def test_a_dry_run_writes_nothing_and_says_what_a_real_one_does(world, daemon):
    until = head(daemon)
    before = everything(daemon, until)

    promised = daemon.archive(keep_days=0, dry_run=True)

    assert (head(daemon), standing(daemon), days(daemon)) == (until, until, [])
    assert daemon.store.log.archive.files.names(daemon.store.log.archive.folder) == []
    assert everything(daemon, until) == before
    done = daemon.archive(keep_days=0)
    assert evolve(done, dry_run=True) == promised
    sizes = [len(file_of(daemon, segment.day)) for segment in done.sealed]
    assert sizes == [segment.size for segment in promised.sealed]


@pytest.mark.parametrize(
    ("name", "value"), [("keep_days", -1), ("keep_days", 1.5), ("max_days", 0), ("max_days", True)]
)
def test_a_number_that_cannot_be_is_refused(daemon, name, value):
    with pytest.raises(InvalidArgument, match=name):
        daemon.archive(**{"keep_days": 0, name: value})

    assert days(daemon) == []


# --- what is released ---------------------------------------------------------------------------------------------


def test_a_run_that_may_go_on_keeps_all_of_its_history_and_one_that_ended_its_last_entry(daemon):
    daemon.archive(keep_days=0)

    assert hot(daemon, GOING) == [1, 2, 3, 4, 5]
    for run_id in ENDED:
        with daemon.store.reading() as reading:
            assert hot(daemon, run_id) == [reading.version(run_id)]


def test_streams_that_are_no_run_are_released_by_age(daemon):
    daemon.archive(keep_days=3)  # today is the 6th: the first and the second day are that old, the fourth is not

    stays = hot(daemon, "notes")
    assert set(range(9, 13)).isdisjoint(stays)
    assert 17 in stays
    assert daemon.store.stream("notes").append(LINE)[0].version == 18


def test_notes_that_become_a_run_while_they_are_released_keep_their_history(world, runs, monkeypatch):
    runs.store.append("run-1", *[LINE] * 12)
    runs.store.append("notes", *[LINE] * 12)
    world.jumps(days=2)
    judged = archiving._Run._going

    def late(run, *places):
        going = judged(run, *places)
        runs.store.append("run-1", RunQueued("deploy"), key="late")
        return going

    monkeypatch.setattr(archiving._Run, "_going", late)

    runs.archive(keep_days=0)

    assert hot(runs, "run-1") == [*range(1, 14)]
    assert len(hot(runs, "notes")) < 12


def test_what_is_kept_stays_in_the_log_and_leaves_when_it_is_old_enough(world, daemon):
    assert daemon.archive(keep_days=5).released == 0
    assert days(daemon) == [*DAYS]

    world.jumps(days=9)
    assert daemon.archive(keep_days=5).released > 0


def test_entries_that_others_are_packed_over_stay_until_these_leave(world, runs):
    """The second day's note is stored as what differs from one of the first day."""
    text = "".join(f"{number:x} " for number in range(4_000))
    runs.store.append("notes", *[LINE] * 9, LogRecorded("app", "line", None, text), LINE)
    world.jumps(days=3)
    runs.store.append("notes", LogRecorded("app", "line", None, text + "more"), LINE)
    world.jumps(days=1)

    runs.archive(keep_days=1)
    put(runs, days(runs)[0], None)

    (later,) = runs.store.read("notes", after=11, limit=1)
    assert later.event.payload == text + "more"
    with runs.store.reading() as reading:
        assert reading.standing(9, 9) == 0, "others left"


def test_killed_between_two_days_that_leave_no_payload_lacks_what_it_is_packed_over(world, runs):
    runs.store.append("run-1", RunQueued("deploy"), RunStarted("w"))
    text = "".join(f"{number:x} " for number in range(4_000))
    for step in range(4):
        runs.store.append("run-1", CheckpointSaved(step, text + "more" * step), attempt=1)
        world.jumps(days=1)
    runs.store.append("run-1", RunCompleted(), attempt=1)
    world.jumps(days=1)
    before = [recorded.entry for recorded in runs.store.read("run-1")]
    runs.archive(keep_days=30)
    write, steps = runs.store.log.write, Steps(at=2, behind=True)
    runs.store.log.write = lambda job, **options: steps.take(lambda: write(job, **options))

    with pytest.raises(Killed):
        runs.archive(keep_days=0)

    again = world.runs()
    assert len(hot(again, "run-1")) in range(2, 7)
    assert [recorded.entry for recorded in again.store.read("run-1")] == before
    again.archive(keep_days=0)
    assert hot(again, "run-1") == [7], "in one run, since the last ones left first"


def test_a_key_is_remembered_while_its_entry_is_in_the_log(world, daemon):
    entry = daemon.store.append("notes", LogRecorded("app", "line", "r3", {"n": 3}), key="note-3")[0]
    assert entry.version == 4
    daemon.archive(keep_days=0)

    kept = daemon.store.append("notes", LogRecorded("app", "line", "r3", {"n": 3}), key="note-3")[0]
    assert kept.version == 4, "it is one of the first, which stay"
    with pytest.raises(KeyReused):
        daemon.store.append("notes", LINE, key="note-3")
    again = daemon.store.append("notes", LINE, key="note-11")[0]
    assert again.version > 12
    assert daemon.restore_days().left == 1
    assert daemon.verify().ok


def test_submitting_again_under_the_key_of_a_run_that_left_gives_that_run(world, runs):
    first = runs.submit("deploy", input={"n": 1}, key="job/7")
    with world.worker().claim() as attempt:
        attempt.append(RunCompleted())
    runs.submit("deploy")
    world.jumps(days=1)
    runs.archive(keep_days=0)
    assert hot(runs, first) == [3]

    with Refusal(runs, KeyReused, "job/7"):
        runs.submit("deploy", input={"n": 2}, key="job/7")
    with Refusal(runs, RunExists, "is completed"):
        runs.submit("deploy", run_id=first)
    before = head(runs)
    assert runs.submit("deploy", input={"n": 1}, key="job/7", max_queued=1) == first
    assert head(runs) == before


def test_an_export_with_a_key_that_was_used_again_is_taken_without_it_in_the_older_line(world, runs):
    for number in range(10):
        runs.store.append("notes", evolve(LINE, payload=number), key=f"k{number}")
    world.jumps(days=1)
    runs.archive(keep_days=0)
    runs.store.append("notes", evolve(LINE, payload="again"), key="k8")
    *lines, last = export_lines(runs.store, ["notes"])
    assert lines[8].replace(b',"key":"k8"', b"") != lines[8]

    with EventStore(MemoryLog(), [RUN]) as other:
        with pytest.raises(ImportRefused, match=r"line 11: version 9 .* 'k8' already, .* take it out of the line that"):
            import_lines(other, io.BytesIO(b"".join([*lines, last])))
        assert other.head().position == 0
        lines[8] = lines[8].replace(b',"key":"k8"', b"")

        assert import_lines(other, io.BytesIO(b"".join([*lines, last]))).events == 11
        assert other.append("notes", evolve(LINE, payload="again"), key="k8")[0].version == 11


# --- killed, late, and two at once --------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [False, True], ids=["before a step", "behind it"])
def test_killed_at_any_step_and_run_again_the_result_is_the_same(behind):
    def begun(steps):
        world, files = World(), StepFiles()
        world.memory = MemoryLog(files=files)
        runs = world.runs()
        lived(world, runs)
        write = runs.store.log.write
        runs.store.log.write = lambda job, **options: steps.take(lambda: write(job, **options))
        files.steps = steps
        return world, runs

    counting = Steps()
    _, runs = begun(counting)
    until = head(runs)
    counting.count = 0
    runs.archive(keep_days=0)
    stays, total = standing(runs), counting.count
    assert total > 15

    for at in range(1, total + 1):
        steps = Steps(behind=behind)
        world, runs = begun(steps)
        before = [recorded.entry for recorded in runs.store.read_all()]
        steps.count, steps.at = 0, at
        with pytest.raises(Killed):
            runs.archive(keep_days=0)
        steps.at = None
        again = world.runs()
        assert [recorded.entry for recorded in again.store.read_all()][:until] == before
        again.archive(keep_days=0)
        lines = [orjson.loads(line) for day in DAYS for line in file_of(again, day).splitlines()[:-1]]
        assert [line["position"] for line in lines] == list(range(1, until)), "today is not over"
        assert (days(again), standing(again), head(again)) == ([*DAYS], stays, until + len(DAYS))
        assert [recorded.entry for recorded in again.store.read_all()][:until] == before
    assert again.verify().ok


def test_of_two_archive_runs_at_once_the_second_is_told_and_changes_nothing(world, daemon):
    other = world.runs()

    with daemon.store.log.archive.held():
        with pytest.raises(ArchiveBusy, match="another process archives"):
            other.archive(keep_days=0)
        assert other.archive(keep_days=0, dry_run=True).sealed

    assert days(other) == []
    assert other.archive(keep_days=0).released
    stood = standing(other)
    with daemon.store.log.archive.held(), pytest.raises(ArchiveBusy):
        other.restore_days()
    assert standing(other) == stood


def test_an_entry_that_comes_into_the_day_while_it_is_written_is_sealed_with_it(world, daemon):
    """The clock stands a day behind when somebody writes; the log's time, too, is still of that day."""
    archive = daemon.store.log.archive
    prove, late = archive.prove, []

    def proving(*given):
        if not late:
            now, world.microseconds = world.microseconds, world.microseconds - 2 * DAY
            late.extend(daemon.store.append("late", LINE))
            world.microseconds = now
        return prove(*given)

    world.jumps(days=1)
    archive.prove = proving
    daemon.archive(keep_days=0)

    assert days(daemon)[-1] == "2026-01-06"
    assert daemon.segments()[-1].last >= late[0].position
    assert daemon.verify().ok


def test_a_clock_that_goes_back_never_lets_an_entry_into_a_sealed_day(world, daemon):
    daemon.archive(keep_days=0)
    sealed = daemon.segments()[-1]
    world.jumps(days=-30)

    (late,) = daemon.store.append("notes", LINE)

    assert late.position > sealed.last
    assert late.recorded_at.date().isoformat() > sealed.day
    assert daemon.archive(keep_days=0).sealed == ()
    assert daemon.verify().ok


def test_a_clock_that_goes_back_before_a_day_is_recorded_leaves_it_unsealed(world, runs):
    runs.store.append("notes", LINE)
    world.jumps(days=1)
    archive = runs.store.log.archive
    prove = archive.prove

    def proving(*given):
        world.microseconds -= DAY
        prove(*given)

    archive.prove = proving
    done = runs.archive(keep_days=0)

    assert (done.sealed, done.days_left, days(runs)) == ((), 1, [])
    archive.prove = prove
    world.jumps(days=1)
    assert len(runs.archive(keep_days=0).sealed) == 1


def test_a_file_that_nobody_recorded_is_replaced_if_it_is_the_same_and_put_aside_if_not(daemon):
    archive = daemon.store.log.archive
    archive.files.folder(path_of(daemon, "x").parent)
    archive.files.put(path_of(daemon, DAYS[0]), b"somebody's own\n")
    with daemon.store.reading() as reading:
        first = [
            entry for entry in reading.read_all(after=0, limit=999) if entry.recorded_at < 1_767_225_600_000_000 + DAY
        ]
        before = reading.hash_at(0)
    daemon.archive(keep_days=0)

    names = archive.files.names(path_of(daemon, "x").parent)
    assert names == [f"{DAYS[0]}.jsonl", f"{DAYS[0]}.jsonl.aside-1", *(f"{day}.jsonl" for day in DAYS[1:])]
    archive.write(before, first)  # as a run that is killed before it records
    assert archive.files.names(path_of(daemon, "x").parent) == names
    assert daemon.verify().ok


@pytest.mark.parametrize("left", [False, True], ids=["plain was left", "compressed was left"])
def test_what_a_killed_run_left_under_a_days_other_name_is_taken_away_once_the_day_is_proved(daemon, left):
    archive = daemon.store.log.archive
    with daemon.store.reading() as reading:
        first = [entry for entry in reading.read_all(after=0, limit=999) if day_of(entry.recorded_at) == DAYS[0]]
        before = reading.hash_at(0)
    logs = archive.path("x").parent
    archive.files.folder(logs)
    file = archive.write(before, first, compress=left).segment.file  # as a run that is killed before it records
    spare = archive.files.read(archive.path(file))
    archive.files.put(archive.path(DAYS[1] + file[10:]), spare)  # another day's: no run of ours left that
    archive.files.put(archive.path(f"{DAYS[2]}{file[10:]}"), b"somebody's own\n")
    others = [name for name in archive.files.names(logs) if name != file]
    daemon.archive(compress=not left)

    sealed = [segment.file for segment in daemon.segments()]
    assert archive.files.names(logs) == sorted([*others, *sealed])
    archive.files.put(archive.path(file), spare)
    sound = archive.files.read(archive.path(sealed[0]))
    archive.files.put(archive.path(sealed[0]), sound[:-1])
    daemon.archive()
    assert file in archive.files.names(logs)  # the last of that day
    archive.files.put(archive.path(sealed[0]), sound)
    daemon.archive()
    assert archive.files.names(logs) == sorted([*others, *sealed])
    assert daemon.verify().ok


def test_a_day_that_holds_an_altered_entry_is_not_sealed_and_those_before_it_are(world, daemon):
    forge(daemon.store.log, ("MetaSet", '{"name":"a","value":1}'), stream="forged")
    daemon.store.append("notes", LINE)
    world.jumps(days=1)
    stood = standing(daemon)

    with pytest.raises(UnreadableEntry, match="its hash does not follow"):
        daemon.archive(keep_days=0)

    assert (days(daemon), standing(daemon)) == ([*DAYS], stood + len(DAYS))


@pytest.mark.parametrize("others", [0, 1], ids=["its last entry stays", "others came under its key"])
def test_a_batch_is_known_by_its_key_while_one_of_its_entries_is_in_the_log(world, runs, others):
    batch = [evolve(LINE, payload=number) for number in range(3)]
    runs.store.append("line", *[LINE] * 9)
    placed = runs.store.append("line", *batch, key="k")
    world.jumps(days=1)
    runs.archive(keep_days=0)
    assert hot(runs, "line") == [*range(1, 9), 12]
    for number in range(others):
        runs.store.append("line", evolve(LINE, payload=f"another {number}"), key="k")
    before = head(runs)

    if others:
        with pytest.raises(KeyReused):
            runs.store.append("line", LINE, key="k")
    assert runs.store.append("line", *batch, key="k") == placed
    assert head(runs) == before


# --- segments that are not as they were ---------------------------------------------------------------------------


def cut(data, _others):
    return data[:-200]


def edited(data, _others):
    return data.replace(b"search", b"hearse", 1)


def of_another_day(_data, others):
    return others[0]


@pytest.mark.parametrize("harm", [cut, edited, of_another_day])
def test_a_segment_cut_short_edited_or_replaced_is_found_by_who_reads_it_and_by_verify(daemon, harm):
    daemon.archive(keep_days=0)
    sound = file_of(daemon, DAYS[0])
    put(daemon, DAYS[0], harm(sound, [file_of(daemon, DAYS[1])]))

    with pytest.raises(DamagedSegment) as raised:
        list(daemon.store.read("run-1"))

    segment = daemon.segments()[0]
    error = raised.value
    assert (error.day, error.first, error.last) == (DAYS[0], segment.first, segment.last)
    assert error.file.endswith(f"{DAYS[0]}.jsonl")
    finding = daemon.verify().findings[0]
    assert (finding.check, finding.position) == ("segments", 1)
    assert "damaged" in finding.fact
    put(daemon, DAYS[0], sound)
    assert daemon.verify().ok


def test_a_closing_line_that_was_edited_is_found_by_verify(daemon):
    daemon.archive(keep_days=0)
    put(daemon, DAYS[0], file_of(daemon, DAYS[0]).replace(b'{"segment":1', b'{"segment":7'))

    assert "closing line" in daemon.verify().findings[0].fact


def test_while_a_segment_is_away_what_the_log_holds_is_read_and_what_it_does_not_is_told(world, daemon):
    until = head(daemon)
    before = everything(daemon, until)
    daemon.archive(keep_days=0)
    away = file_of(daemon, DAYS[0])
    put(daemon, DAYS[0], None)
    runs = world.runs()

    assert [r.entry for r in runs.store.read(GOING)] == before["streams"][GOING][0]
    assert runs.workflow_runs.get("run-1").phase == "completed"
    assert runs.store.append("notes", LINE)[0].version == 18
    runs.store.append(GOING, MessageRecorded("user", "go on"), attempt=1)
    segment = runs.segments()[0]
    for reading in (
        lambda: list(runs.store.read("run-1")),
        lambda: list(runs.store.read_all()),
        lambda: runs.checkpoint("run-1"),
        runs.rebuild,
        lambda: runs.archive(keep_days=0) and runs.restore_days([DAYS[0]]),
    ):
        with pytest.raises(SegmentMissing, match=f"{DAYS[0]}, positions {segment.first} to {segment.last}: bring the"):
            reading()
    assert "missing" in runs.verify().findings[0].fact

    put(runs, DAYS[0], away)
    assert [r.entry for r in runs.store.read_all()][:until] == before["entries"]
    assert runs.verify().ok


def test_nothing_is_released_from_a_segment_that_is_not_what_was_sealed(world, daemon):
    daemon.archive(keep_days=30)
    put(daemon, DAYS[0], edited(file_of(daemon, DAYS[0]), ()))
    before = hot(daemon, "run-1")

    with pytest.raises(DamagedSegment):
        world.runs().archive(keep_days=0)

    assert hot(daemon, "run-1") == before


def test_an_append_never_waits_for_a_file(world, daemon):
    """A projection that is a little behind, and would need a released entry, is left behind."""
    daemon.archive(keep_days=0)
    put(daemon, DAYS[0], None)
    runs = world.runs()

    def back(writing):
        projector = runs._projector
        projector.move(writing, evolve(projector.cursor(writing, WORKFLOW_RUNS.name), position=3, hash="00"))

    runs.store.write(back)

    assert runs.store.append("run-7", RunQueued("deploy"), RunStarted("w"), RunCompleted())[0].version == 1


# --- days that come back ------------------------------------------------------------------------------------------


def test_a_restored_day_stands_in_the_log_again_and_leaves_it_again(world, daemon):
    until = head(daemon)
    before = everything(daemon, until)
    daemon.archive(keep_days=0)
    stays = standing(daemon)

    promised = daemon.restore_days([DAYS[0]], dry_run=True)
    assert standing(daemon) == stays
    done = daemon.restore_days([DAYS[0]])

    assert (done.entries, done.left) == (promised.entries, 0) == (standing(daemon) - stays, 0)
    assert daemon.segments()[0].last == len(hot_all(daemon, DAYS[0]))
    assert everything(world.runs(), until) == before
    assert daemon.verify().ok
    daemon.archive(keep_days=0)
    assert standing(daemon) == stays
    assert everything(world.runs(), until) == before


def hot_all(runs, day):
    segment = next(segment for segment in runs.segments() if segment.day == day)
    with runs.store.reading() as reading:
        return range(reading.standing(segment.first, segment.last))


def test_all_days_come_back_also_while_no_file_is_needed_any_more(world, daemon):
    until = head(daemon)
    before = everything(daemon, until)
    daemon.archive(keep_days=0)
    daemon.restore_days()

    for day in DAYS:
        put(daemon, day, None)

    assert standing(daemon) == head(daemon)
    assert everything(world.runs(), until) == before


def test_a_dry_run_says_which_entries_cannot_come_back_since_their_keys_were_used_again(world, runs):
    for number in range(12):
        runs.store.append("line", LINE, key=f"k{number}")
    world.jumps(days=1)
    runs.archive(keep_days=0)
    runs.store.append("line", LINE, LINE, key="k9")
    runs.store.append("line", LINE)
    world.jumps(days=1)
    runs.archive(keep_days=0)  # and of two that left under one key, the older one comes back
    runs.store.append("line", LINE, key="k10")

    promised = runs.restore_days(dry_run=True)
    done = runs.restore_days()

    assert evolve(promised, dry_run=False) == done
    assert done.left == 2
    assert runs.verify().ok


def test_a_day_that_is_not_sealed_cannot_come_back(daemon):
    with pytest.raises(InvalidArgument, match="no day is sealed yet"):
        daemon.restore_days(["2026-01-01"])
    daemon.archive(keep_days=0)

    with pytest.raises(InvalidArgument, match="sealed are 2026-01-01 to 2026-01-04"):
        daemon.restore_days(["2026-01-03"])


# --- SQLite alone -------------------------------------------------------------------------------------------------


@pytest.fixture
def filed(tmp_path):
    world = World(tmp_path)
    runs = world.runs()
    lived(world, runs)
    yield world, runs
    world.close()


def test_the_database_lets_nothing_go_that_is_not_sealed_nor_the_last_entry_of_a_stream(filed):
    _, runs = filed
    runs.archive(keep_days=9)

    def deleted(where):
        return runs.store.write(lambda writing: writing.execute(f"DELETE FROM events WHERE {where}"))

    for where in ("position = (SELECT max(last) + 1 FROM segments)", "stream = 'run-1' AND type = 'RunCompleted'", "1"):
        with pytest.raises(Exception, match="append-only"):
            deleted(where)
    assert standing(runs) == head(runs)
    deleted("stream = 'run-1' AND version = 1")
    assert standing(runs) == head(runs) - 1
    assert runs.verify().ok


def test_vacuum_gives_the_room_back(filed):
    world, runs = filed
    runs.store.append("big", *(LogRecorded("app", "line", None, f"{n}" * 2_000) for n in range(100)))
    world.jumps(days=1)

    done = runs.archive(keep_days=0, vacuum=True)

    assert done.freed > 100_000
    assert world.runs().verify().ok


@pytest.mark.parametrize("harm", ["file", "folder", "no folder"])
def test_a_link_or_a_file_in_the_place_of_a_folder_is_a_damaged_segment_and_not_followed(filed, tmp_path, harm):
    _, runs = filed
    runs.archive(keep_days=0)
    file = path_of(runs, DAYS[0])
    replaced = file if harm == "file" else file.parent
    replaced.rename(tmp_path / "elsewhere")
    if harm == "no folder":
        replaced.write_bytes(b"")
    else:
        replaced.symlink_to(tmp_path / "elsewhere")

    with pytest.raises(DamagedSegment, match=DAYS[0]):
        list(runs.store.read("run-1"))
    assert {finding.position for finding in runs.verify().findings} >= {1}


@pytest.mark.parametrize("link", ["agent.db-archive", "agent.db-archive/logs", "agent.db-archive/lock"])
def test_a_folder_of_segments_that_is_a_symlink_is_refused_in_words_and_nothing_changes(filed, tmp_path, link):
    _, runs = filed
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (tmp_path / link).parent.mkdir(exist_ok=True)
    (tmp_path / link).symlink_to(theirs)
    until = head(runs)

    with pytest.raises(CannotOpen, match=rf"{link}: .*[Ss]ym") as found:
        runs.archive(keep_days=0)
    assert "Errno" not in str(found.value)
    assert (head(runs), standing(runs), days(runs), [*theirs.iterdir()]) == (until, until, [], [])
    (tmp_path / link).unlink()
    assert runs.archive(keep_days=0).released
    stays = standing(runs)
    (tmp_path / link).rename(tmp_path / "moved")
    (tmp_path / link).symlink_to(tmp_path / "moved")
    with pytest.raises(CannotOpen, match=rf"{link}: .*[Ss]ym") as found:
        runs.restore_days()
    assert "Errno" not in str(found.value)
    assert standing(runs) == stays


def test_what_a_vacuum_gives_back_is_of_the_database_and_not_of_a_wal_that_goes_anyway(filed):
    _, runs = filed
    runs.archive(keep_days=0, vacuum=True)
    runs.store.append("big", *(LogRecorded("app", "line", None, f"{n}" * 2_000) for n in range(100)))
    assert runs.store.log.facts().wal > 200_000

    assert runs.archive(vacuum=True).freed < 20_000


def test_an_archive_moves_with_its_database(filed, tmp_path):
    world, runs = filed
    until = head(runs)
    before = everything(runs, until)
    runs.archive(keep_days=0)
    runs.close()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for name in ("agent.db", "agent.db-archive"):
        shutil.move(tmp_path / name, elsewhere / name)

    world.path = elsewhere / "agent.db"

    assert everything(world.runs(), until) == before


def test_of_a_day_of_very_many_streams_where_they_stand_is_held_for_some_at_a_time(tmp_path, monkeypatch):
    made, live = [], []

    def counted(*fields):
        span = Span(*fields)
        made.append(ref(span))
        live.append(sum(one() is not None for one in made))
        return span

    world = World(tmp_path)
    runs = world.runs()
    for number in range(200):
        runs.store.append(f"stream-{number}", LogRecorded("app", "line"))
    world.jumps(days=1)
    monkeypatch.setattr("eventstore.segments.writing.Span", counted)
    monkeypatch.setattr("eventstore.segments.folder.BLOCK_BYTES", 2_000)
    monkeypatch.setattr("eventstore.segments.folder._ROWS", 20)

    assert runs.archive(keep_days=0).sealed
    assert len(made) >= 2 * 200, "as it is written, and as it is proved"
    assert max(live) < 50
    monkeypatch.undo()
    assert runs.verify().ok
    world.close()
