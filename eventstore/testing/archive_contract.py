"""What a backend promises about sealed days: they leave, they are read as before, they come back."""

from __future__ import annotations

from eventstore.archiving import archive, restore_days
from eventstore.errors import SegmentMissing
from eventstore.log import Entry, Glance
from eventstore.notes import LogRecorded, MetaSet
from eventstore.segments import DAY
from eventstore.testing.scaffold import CountClosed, Counted, Scaffold, raises


class ArchiveContract(Scaffold):
    """Segments, and entries that left for them."""

    def _days(self) -> list[Entry]:
        """Two days that are over: a stream that was closed, one that may go on, and notes; all entries."""
        for _ in range(2):
            self.store.append("open", *[Counted()] * 3)
            self.store.append("closed", *[Counted(2)] * 3, key=f"day-{self.now}")
            self.store.append("notes", *[LogRecorded("a", "b", None, "x" * 900)] * 9, MetaSet("name", self.now))
            self.now += DAY
        self.store.append("closed", CountClosed())
        self.now += DAY
        return self.everything()

    def _glances(self) -> list[Glance]:
        with self.log.reading() as view:
            return [
                view.glance(after=4, limit=99, peek={"Counted": 5}),
                view.glance(after=4, limit=3, peek={}),
                *(view.glance(after=1, limit=99, peek={}, stream=name) for name in ("open", "closed", "notes")),
            ]

    def test_entries_that_left_are_read_as_before(self) -> None:
        before = self._days()
        glances = [[list(column) for column in (it.positions, it.streams, it.types)] for it in self._glances()]

        assert archive(self.store, keep_days=0).released > 0

        after = self.everything()[: len(before)]
        assert after == before
        shown = [[list(column) for column in (it.positions, it.streams, it.types)] for it in self._glances()]
        assert shown[1:] == glances[1:]
        assert [column[: len(before) - 4] for column in shown[0]] == glances[0]
        with self.log.reading() as view:
            assert [view.hash_at(entry.position) for entry in before] == [entry.hash for entry in before]
            assert [entry.position for entry in view.at([9, 2, 4])] == [2, 4, 9]
            assert (
                list(view.read("closed", after=1, limit=2))
                == [entry for entry in before if entry.stream == "closed"][1:3]
            )
            types = view.read_all(after=0, limit=99, types=["MetaSet"])
            assert list(types) == [entry for entry in before if entry.type == "MetaSet"]
            assert view.version("closed") == 7

    def test_what_may_go_on_stays_and_so_does_the_last_entry_of_each_stream(self) -> None:
        before = self._days()

        archive(self.store, keep_days=0)

        with self.log.reading() as view:
            here = {entry.position for entry in before if view.standing(entry.position, entry.position)}
        assert here.issuperset(entry.position for entry in before if entry.stream == "open")
        closed = [entry.position for entry in before if entry.stream == "closed"]
        assert here.intersection(closed) == {closed[-1]}

    def test_everything_is_counted_wherever_it_stands(self) -> None:
        self._days()
        with self.log.reading() as view:
            before = {name: (entries, size) for name, entries, size, _ in view.census().types}

        archive(self.store, keep_days=0, max_days=2)

        with self.log.reading() as view:
            after = {name: (entries, size) for name, entries, size, _ in view.census().types}
        assert after["Counted"] == before["Counted"]
        assert after["MetaSet"] == before["MetaSet"]
        assert after["LogRecorded"][0] == before["LogRecorded"][0] + 2, "and what sealing recorded"

    def test_segments_are_known_to_other_handles_and_to_the_next_process(self) -> None:
        self._days()
        archive(self.store, keep_days=0)
        with self.log.reading() as view:
            segments = list(view.segments())
        before = self.everything()

        with self.other().reading() as view:
            assert list(view.segments()) == segments
        with self.again().reading() as view:
            assert list(view.segments()) == segments
            assert [block.first for block in view.blocks(segments[0])] == [1]
        assert self.everything() == before

    def test_what_left_comes_back(self) -> None:
        before = self._days()
        archive(self.store, keep_days=0)

        restore_days(self.store)

        with self.log.reading() as view:
            assert view.standing(1, len(before)) == len(before)
            assert len(view.segments()) == len({entry.recorded_at // DAY for entry in before})
        assert self.everything()[: len(before)] == before

    def test_a_file_that_is_not_there_is_named_by_who_needs_it_and_by_nobody_else(self) -> None:
        before = self._days()
        archive(self.store, keep_days=0)
        with self.log.reading() as view:
            segment = view.segments()[0]

        self.log.archive.files.remove(self.log.archive.path(segment.file))

        raises(SegmentMissing, self.everything)
        of_open = [recorded.entry for recorded in self.over(self.log).read("open")]
        assert of_open == [entry for entry in before if entry.stream == "open"]
        assert self.store.append("open", Counted())[0].version == len(of_open) + 1

    def test_notes_are_known_by_the_types_that_were_sealed(self) -> None:
        self._days()
        archive(self.store, keep_days=0)

        with self.log.reading() as view:
            assert view.sealed_types("notes") == (20, frozenset({"LogRecorded", "MetaSet"}))
            assert view.sealed_types("nobody") == (0, frozenset())
            assert [*view.cut_off()] == []
