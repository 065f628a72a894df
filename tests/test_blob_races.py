"""A collector beside writers and readers, and deaths at every step: what an entry needs is never gone."""

import io
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest

import projections
from eventstore.blobfiles import BlobFiles
from eventstore.blobs import Blobs
from eventstore.errors import MissingBlob
from eventstore.files import MemoryFiles
from eventstore.memory import MemoryLog
from eventstore.notes import MetaSet
from eventstore.workflow import CheckpointSaved, RunCompleted, RunQueued, RunStarted
from tests.blobbing import Killed, Watched, ages, dies_at, noise


class Scene:
    """A store in memory whose files are watched, with an old blob that nobody mentions yet."""

    def __init__(self):
        self.files = Watched(MemoryFiles())
        self.log = MemoryLog()
        self.log._disk.blobs = self.log.blobs = BlobFiles(Path("blobs"), self.files)
        self.runs = projections.connect(self.log)
        self.blobs = self.runs.blobs
        self.digest = self.blobs.write(b"one")
        for item in self.log.blobs.each():
            self.files.files._found(item.path).modified = 0

    def at(self, number, act, always=lambda: None):
        """Have this done before the verb of that number, and that before each one after it."""
        count = -1
        inside = False

        def before(_verb, _path):
            nonlocal count, inside
            if inside:
                return
            count += 1
            inside = True
            try:
                if count == number:
                    act()
                elif count > number:
                    always()
            finally:
                inside = False

        self.files.before = before
        return lambda: count + 1

    @contextmanager
    def dying(self, number):
        """The process dies at the verb of that number; what is given holds the verbs that it came to."""
        seen, mortal = [], dies_at(number)

        def before(verb, path):
            seen.append(verb)
            mortal(verb, path)

        self.files.before = before
        with suppress(Killed):
            yield seen
        self.files.before = lambda _verb, _path: None

    def names(self):
        return sorted(str(item.path) for item in self.log.blobs.each())


def each_verb(perform):
    """Perform for the first verb, the second and so on, until there is none of that number; how many there were."""
    number = 0
    while perform(number) > number:
        number += 1
    assert number > 1, "nothing was tried"
    return number


@pytest.mark.parametrize("source", [lambda: b"one", lambda: io.BytesIO(b"one")], ids=["bytes", "stream"])
def test_a_writer_that_comes_at_any_step_of_a_collector_has_its_blob_from_then_on(source):
    def come(number):
        scene = Scene()

        def write():
            assert scene.blobs.write(source()) == scene.digest

        def read():
            assert scene.blobs.read(scene.digest) == b"one"

        count = scene.at(number, write, always=read)
        scene.blobs.gc()
        seen = count()
        scene.files.before = lambda _verb, _path: None
        if seen > number:
            assert scene.blobs.read(scene.digest) == b"one"
            scene.runs.store.append("s", MetaSet("n", scene.digest))
            ages(scene.log)
            scene.blobs.gc()
            assert scene.blobs.read(scene.digest) == b"one"
        return seen

    each_verb(come)


@pytest.mark.parametrize("source", [lambda: b"one", lambda: io.BytesIO(b"one")], ids=["bytes", "stream"])
def test_a_collector_that_comes_at_any_step_of_a_writer_leaves_it_its_blob(source):
    def come(number):
        scene = Scene()
        count = scene.at(number, scene.blobs.gc)
        assert scene.blobs.write(source()) == scene.digest
        seen = count()
        scene.files.before = lambda _verb, _path: None
        assert scene.blobs.read(scene.digest) == b"one"
        return seen

    each_verb(come)


def test_two_collectors_at_once_take_nothing_that_is_needed_and_all_that_is_not():
    scene = Scene()
    needed = scene.blobs.write(b"needed")
    scene.runs.store.append("s", MetaSet("n", needed))
    ages(scene.log)
    other = projections.connect(scene.log.reopen())
    other.store.log.blobs = scene.log.blobs
    with ThreadPoolExecutor(2) as pool:
        done = [pool.submit(runs.blobs.gc) for runs in (scene.runs, other)]
    assert sum(future.result().blobs for future in done) == 1

    assert not scene.blobs.exists(scene.digest)
    assert scene.blobs.read(needed) == b"needed"


def test_a_check_finds_nothing_in_what_a_writer_and_a_collector_do_at_any_step_of_it():
    def come(number):
        scene = Scene()
        scene.runs.store.append("s", MetaSet("n", noise()))

        def act():
            scene.runs.store.append("s", MetaSet("n", noise(2)))
            scene.blobs.gc()

        count = scene.at(number, act)
        assert scene.blobs.check().faults == ()
        return count()

    each_verb(come)


def test_a_payload_that_left_for_its_segment_while_blobs_were_checked_needs_no_blob(world, runs, monkeypatch):
    runs.store.append("run-1", RunQueued("w"), RunStarted("w"))
    runs.store.append("run-1", CheckpointSaved(1, noise()), RunCompleted(), attempt=1)
    world.jumps(days=1)
    honest = Blobs._needed

    def left_meanwhile(blobs, entries):
        needs = [*honest(blobs, entries)]
        monkeypatch.undo()
        runs.archive(keep_days=0)
        ages(runs.store.log)
        assert Blobs(runs.store.log).gc().blobs == 1
        return needs

    monkeypatch.setattr(runs.store.log.blobs, "each", lambda: iter(()))  # it came after the folder was read
    monkeypatch.setattr(Blobs, "_needed", left_meanwhile)

    assert runs.blobs.check().ok
    assert runs.checkpoint("run-1") == noise()


def test_what_is_mentioned_after_the_log_was_read_and_before_the_lock_was_had_stays(monkeypatch):
    scene = Scene()
    honest = scene.log.write

    def mentioned_meanwhile(job, **options):
        monkeypatch.setattr(scene.log, "write", honest)
        scene.runs.store.append("s", MetaSet("n", scene.digest))
        return honest(job, **options)

    monkeypatch.setattr(scene.log, "write", mentioned_meanwhile)

    assert scene.blobs.gc().blobs == 0
    assert scene.blobs.read(scene.digest) == b"one"


def test_a_payload_that_was_appended_after_the_log_was_read_keeps_its_blob(monkeypatch):
    scene = Scene()
    scene.runs.store.append("a", MetaSet("n", noise()))
    honest = scene.log.write

    def appended_meanwhile(job, **options):
        monkeypatch.setattr(scene.log, "write", honest)
        scene.runs.store.append("b", MetaSet("n", noise(2)))
        ages(scene.log)  # so that nothing but the row speaks for it
        return honest(job, **options)

    monkeypatch.setattr(scene.log, "write", appended_meanwhile)
    scene.log.blobs.write(b'{"name":"n","value":"%b"}' % noise(2).encode())
    ages(scene.log)

    assert scene.blobs.gc().digests == (scene.digest,)
    assert [item.event.value for item in scene.runs.store.read_all()] == [noise(), noise(2)]


def test_appends_of_large_payloads_beside_a_busy_collector_that_spares_no_age_lose_nothing(tmp_path):
    texts = [noise(seed) for seed in range(3)]

    with projections.connect(tmp_path / "agent.db") as runs, ThreadPoolExecutor(4) as pool:

        def undone(writing):
            runs.store.stream("x").job(MetaSet("n", texts[0]))(writing)
            raise Killed

        def write(number):
            for step in range(4):
                runs.store.append(f"s{number}", MetaSet("n", texts[(number + step) % 3]))
                with suppress(ZeroDivisionError):
                    runs.store.write(
                        lambda writing: (runs.store.stream("x").job(MetaSet("n", texts[0]))(writing), 1 / 0)
                    )

        writers = [pool.submit(write, number) for number in range(3)]
        while not all(future.done() for future in writers):
            runs.blobs.gc(min_age=timedelta(0))
        for future in writers:
            future.result()

        assert len([*runs.store.read_all()]) == 12
        assert runs.blobs.check().ok
        assert runs.verify().ok


def test_a_reader_finds_a_blob_that_is_brought_back_between_its_looks():
    scene = Scene()
    (item,) = scene.log.blobs.each()
    aside = item.path.with_name(f"{item.path.name}.aside")
    scene.files.rename(item.path, aside)

    def before(verb, path):
        if verb == "open" and path == aside:
            scene.files.files.rename(aside, item.path)

    scene.files.before = before

    assert scene.blobs.read(scene.digest) == b"one"


# --- deaths ---------------------------------------------------------------------------------------------------------


def test_a_collector_killed_at_any_step_has_taken_nothing_that_is_needed_and_the_next_one_goes_on():
    def die(number):
        scene = Scene()
        needed = scene.blobs.write(b"needed")
        scene.runs.store.append("s", MetaSet("n", [needed, noise()]))
        ages(scene.log)
        with scene.dying(number) as seen:
            scene.blobs.gc()

        assert scene.blobs.read(needed) == b"needed"
        assert next(scene.runs.store.read("s")).event.value == [needed, noise()]
        scene.blobs.gc()
        assert not scene.blobs.exists(scene.digest)
        assert len(scene.names()) == 2
        assert scene.blobs.check().ok
        return len(seen)

    each_verb(die)


def test_a_blob_that_a_killed_collector_had_put_aside_is_read_and_comes_back_when_it_is_needed():
    scene = Scene()
    (item,) = scene.log.blobs.each()
    scene.files.rename(item.path, item.path.with_name(f"{item.path.name}.aside"))

    assert scene.blobs.read(scene.digest) == b"one"
    assert scene.blobs.check().ok
    scene.runs.store.append("s", MetaSet("n", scene.digest))
    assert scene.blobs.gc().blobs == 0
    assert scene.names() == [str(item.path)]
    assert scene.blobs.read(scene.digest) == b"one"


@pytest.mark.parametrize("there", [b"", b"one", b"?"], ids=["new", "standing", "damaged"])
@pytest.mark.parametrize("source", [lambda: b"one", lambda: io.BytesIO(b"one")], ids=["bytes", "stream"])
def test_a_writer_killed_at_any_step_leaves_a_whole_blob_or_none_and_can_begin_again(source, there):
    def die(number):
        scene = Scene()
        (item,) = scene.log.blobs.each()
        if there:
            scene.files.put(item.path, there)
        else:
            scene.files.remove(item.path)
        with scene.dying(number) as seen:
            scene.blobs.write(source())

        left = scene.files.read(item.path)
        assert left in ({b"one", None} if there != b"?" else {b"one", b"?"})
        assert scene.blobs.exists(scene.digest) == (left == b"one")
        scene.blobs.write(source())
        assert scene.blobs.read(scene.digest) == b"one"
        ages(scene.log)
        scene.blobs.gc()
        assert scene.names() == []
        return len(seen)

    each_verb(die)


def test_an_append_killed_at_any_step_of_its_blob_leaves_a_log_that_reads_whole():
    def die(number):
        scene = Scene()
        scene.runs.store.append("s", MetaSet("n", noise()))
        with scene.dying(number) as seen:
            scene.runs.store.append("s", MetaSet("n", noise(2)))

        assert [item.event.value for item in scene.runs.store.read("s")] in ([noise()], [noise(), noise(2)])
        scene.runs.store.append("s", MetaSet("n", noise(2)))
        assert scene.blobs.check().ok
        return len(seen)

    each_verb(die)


def test_a_blob_that_is_gone_when_it_is_asked_for_again_is_missing_and_not_half_there():
    scene = Scene()
    scene.blobs.gc()

    with pytest.raises(MissingBlob):
        scene.blobs.read(scene.digest)
    assert scene.names() == []
