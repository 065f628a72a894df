"""What goes wrong elsewhere with archives, and cannot here: a test for each row of our list, named after its story.

Each docstring quotes the row.
"""

from eventstore import LogRecorded
from eventstore.memory import MemoryLog
from eventstore.workflow import MessageRecorded, Phase, RunCompleted, RunQueued, RunStarted
from tests.archived import DAYS, GOING, StepFiles, Steps, everything, lived
from tests.world import World


def files_of(runs):
    archive = runs.store.log.archive
    return {segment.day: archive.files.read(archive.path(segment.file)) for segment in runs.segments()}


def test_a_late_row_never_overwrites_the_file_of_an_archived_day(world, runs):
    """One late row in an archived day overwrites that day's file and truncates every later one: 13 of 18 rows gone."""
    lived(world, runs)
    until = runs.store.head().position
    runs.archive(keep_days=0)
    before, read = files_of(runs), everything(runs, until)

    world.jumps(days=-4)
    (late,) = runs.store.append("notes", LogRecorded("app", "late"), occurred_at=world.now)
    world.jumps(days=9)
    runs.archive(keep_days=0)

    after = files_of(runs)
    assert {day: after[day] for day in before} == before
    assert late.position == until + len(DAYS) + 1
    assert late.recorded_at.date().isoformat() not in before
    assert [r.position for r in runs.store.read_all()] == list(range(1, runs.store.head().position + 1))
    assert everything(runs, until)["entries"] == read["entries"]


def test_a_run_that_is_still_started_keeps_its_trigger_and_messages_when_its_days_are_archived(world, runs):
    """Archiving ignores run state: a run still `started` loses its trigger and messages but stays listed as active."""
    lived(world, runs)
    world.jumps(days=99)
    runs.archive(keep_days=0)

    archive = runs.store.log.archive
    for segment in runs.segments():
        archive.files.remove(archive.path(segment.file))  # so whatever is read now stands in the log itself

    assert runs.workflow_runs.get(GOING).phase == Phase.STARTED
    assert runs.input(GOING) == {"n": 2}
    assert [message.content for message in runs.messages(GOING)] == ["are you there?", "still here"]


def test_rows_are_deleted_after_the_file_was_synced_renamed_read_back_and_recorded():
    """The archive is written without sync before the rows are deleted; the watermark can move backwards."""
    world, files, seen = World(), StepFiles(), []
    world.memory = MemoryLog(files=files)
    runs = world.runs()
    lived(world, runs)
    write = runs.store.log.write

    def writing(job, **options):
        with runs.store.reading() as reading:
            before = reading.standing(1, reading.head().position), len(reading.segments())
        done = write(job, **options)
        with runs.store.reading() as reading:
            after = reading.standing(1, reading.head().position), len(reading.segments())
        seen.append("recorded" if after[1] > before[1] else "released" if after[0] < before[0] else "indexed")
        return done

    runs.store.log.write = writing
    files.steps = Steps()
    # `Files.put` and `Files.writing` sync the bytes, rename, and sync the folder before they return.
    files.steps.take = lambda act, told=files: seen.append(told.verb) or act()
    runs.archive(keep_days=0)

    assert seen.index("put") < seen.index("open") < seen.index("indexed") < seen.index("recorded")
    assert seen.count("recorded") == len(DAYS)
    assert seen.index("released") > max(index for index, what in enumerate(seen) if what == "recorded")


def test_how_far_the_log_is_sealed_never_moves_back(world, runs):
    """The watermark can move backwards."""
    lived(world, runs)
    runs.archive(keep_days=0)
    sealed = runs.segments()

    for days in (-5, 3, -1, 9):
        world.jumps(days=days)
        runs.archive(keep_days=0)
        runs.restore_days()
        assert runs.segments()[: len(sealed)] == sealed
        sealed = runs.segments()


def test_rounds_keep_their_numbers_when_their_days_are_archived(world, runs):
    """Round count and round pages disagree; numbers restart after archiving."""
    runs.store.append("run-1", RunQueued("chat"), RunStarted("w"))
    for number in range(5):
        runs.store.append(
            "run-1", MessageRecorded("user", number), MessageRecorded("assistant", {"n": number}), attempt=1
        )
        world.jumps(days=1)
    runs.store.append("run-1", RunCompleted(), attempt=1)
    world.jumps(days=1)
    before = runs.sessions.rounds("run-1"), runs.sessions.rounds("run-1", before=4, limit=2)

    assert runs.archive(keep_days=0).released > 0

    assert (runs.sessions.rounds("run-1"), runs.sessions.rounds("run-1", before=4, limit=2)) == before
    assert [round_.number for round_ in before[0]] == [5, 4, 3, 2, 1]
    assert runs.sessions.count_rounds("run-1") == 5
