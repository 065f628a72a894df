"""What every table backend promises of full-text indexes: a part of `TablesContract`.

What is found is said by `projections.searching` alone; the last test holds the backend to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeVar

from attrs import frozen
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.searching import All, Either, Phrase, Wanted, found, parse, words
from projections.tables import Range, Table, Tables, query

if TYPE_CHECKING:
    from eventstore.log import Log, Writing

T = TypeVar("T")


@frozen
class Note:
    """A row with two columns of text."""

    shelf: str
    number: int
    title: str | None
    text: str


NOTES: Table[Note] = Table.of("notes", Note, ("shelf", "number"), (("number",),), ("title", "text"))
_WORDS = st.sampled_from(
    ["deploy", "deployed", "de", "Über", "uber", "NAÏVE", "日本語", "日", "straße", "x1", "OR", "_", "ß"]
)
_TEXT = st.lists(_WORDS | st.text(max_size=4), max_size=5).map(" ".join)


def _phrases() -> st.SearchStrategy[Wanted]:
    folded = _TEXT.map(words).filter(bool).map(tuple)
    return st.builds(Phrase, folded, st.booleans())


_WANTED: st.SearchStrategy[Wanted] = st.recursive(
    _phrases(),
    lambda inner: (
        st.builds(Either, st.lists(inner, min_size=1, max_size=3).map(tuple))
        | st.builds(All, st.lists(inner, min_size=1, max_size=3).map(tuple), st.lists(inner, max_size=2).map(tuple))
    ),
    max_leaves=5,
)


class SearchedTables:
    """The tests; `TablesContract` opens what they look at."""

    log: Log
    tables: Tables
    write: Callable[[Callable[[Writing], Any]], Any]

    def note(self, *notes: Note, table: Table[Note] = NOTES) -> None:
        """Put notes, into a table that is made for the first ones."""

        def job(transaction: Writing) -> None:
            if not self.tables.exists(transaction, table):
                self.tables.create(transaction, table)
            self.tables.put(transaction, table, [table.encode(note, 1) for note in notes])

        self.write(job)

    def looked_up(self, wanted: Wanted | str, *, table: Table[Note] = NOTES, **more: Any) -> list[int]:
        """The numbers of the notes that are found; the count must agree, where nothing else is asked."""
        matching = parse(wanted) if isinstance(wanted, str) else wanted
        asked = query(table, more.pop("filters", {}), matching=matching, **more)
        with self.log.reading() as reading:
            rows = [table.decode(values) for values in self.tables.select(reading, table, asked)]
            if asked.limit is None and asked.after is None:
                assert self.tables.count(reading, table, asked) == len(rows)
        return [row.number for row in rows]

    def test_rows_are_found_by_the_words_of_any_searched_column(self) -> None:
        self.note(Note("a", 1, "Über uns", "we deploy"), Note("a", 2, None, "uber deployment"), Note("b", 3, "x", ""))

        assert self.looked_up("uber") == [1, 2]
        assert self.looked_up("deploy") == [1]
        assert self.looked_up("deploy* -uns") == [2]
        assert self.looked_up('"uns we"') == []
        assert self.looked_up("we uns") == [1]
        assert self.looked_up("a") == []

    def test_what_is_found_is_filtered_ordered_and_paged_as_any_rows(self) -> None:
        notes = [Note("ab"[number % 2], number, None, "same words") for number in range(6)]
        self.note(*notes)

        assert self.looked_up("same", order="-number") == [5, 4, 3, 2, 1, 0]
        assert self.looked_up("same", order="-number", filters={"shelf": "b", "number": Range(stop=5)}) == [3, 1]
        assert self.looked_up("same", order="-number", limit=2, after=notes[4]) == [3, 2]

    def test_a_row_that_changed_is_found_by_its_new_words_alone_and_one_that_is_gone_by_none(self) -> None:
        self.note(Note("a", 1, None, "old words"), Note("a", 2, None, "old stay"), Note("a", 3, None, "old go"))
        self.note(Note("a", 1, None, "dropped"), Note("a", 1, None, "new words"))
        keys = [("a", 3)]
        self.write(lambda transaction: self.tables.delete(transaction, NOTES, keys))
        changes = {"text": "updated"}
        self.write(lambda transaction: self.tables.update(transaction, NOTES, [("a", 2), ("z", 9)], changes))

        assert self.looked_up("old OR go OR stay OR dropped") == []
        assert self.looked_up("new words") == [1]
        assert self.looked_up("updated") == [2]

    def test_a_renamed_table_takes_its_index_along_and_a_dropped_one_leaves_none(self) -> None:
        shadow = NOTES.renamed("notes__shadow")
        self.note(Note("a", 1, None, "old"))
        self.note(Note("a", 2, None, "new"), table=shadow)

        def swap(transaction: Writing) -> None:
            self.tables.drop(transaction, NOTES)
            self.tables.rename(transaction, shadow, "notes")

        self.write(swap)

        assert self.looked_up("old OR new") == [2]
        with self.log.reading() as reading:
            assert self.tables.fault(reading, NOTES) is None
        self.note(Note("a", 3, None, "other"), table=shadow)
        assert self.looked_up("old OR new OR other", table=shadow) == [3]

    def test_words_go_back_with_their_transaction(self) -> None:
        self.note(Note("a", 1, None, "stays"))

        class Boom(Exception):
            pass

        def job(transaction: Writing) -> None:
            try:
                with transaction.savepoint():
                    self.tables.put(transaction, NOTES, [NOTES.encode(Note("a", 1, None, "goes"), 1)])
                    raise Boom
            except Boom:
                self.tables.put(transaction, NOTES, [NOTES.encode(Note("a", 2, None, "comes"), 1)])

        self.write(job)

        assert self.looked_up("stays OR goes OR comes") == [1, 2]

    @settings(max_examples=25, suppress_health_check=[HealthCheck.differing_executors])
    @given(texts=st.lists(st.tuples(_TEXT, _TEXT), max_size=5), wanted=st.lists(_WANTED, min_size=1, max_size=4))
    def test_random_texts_are_found_just_where_the_pure_rules_find_them(
        self, texts: list[tuple[str, str]], wanted: list[Wanted]
    ) -> None:
        notes = [Note("a", number, *both) for number, both in enumerate(_storable(texts))]
        self.write(lambda transaction: self.tables.drop(transaction, NOTES))
        self.note(*notes[:2])
        for note in notes[2:]:  # some rows at once and some alone, in case it makes a difference
            self.note(note)

        for each in wanted:
            expected = [note.number for note in notes if found(each, [words(note.title or ""), words(note.text)])]
            assert self.looked_up(each) == expected, each


def _storable(texts: list[tuple[str, str]]) -> list[tuple[str, str]]:
    return [(one.encode("utf-8", "replace").decode(), two.encode("utf-8", "replace").decode()) for one, two in texts]
