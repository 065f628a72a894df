"""Searching: what is looked for, how text falls into words, and whether it is found there; the same on every backend.

    rollback deploy          both words, in any order          "roll back"      the words in this order, side by side
    deploy*                  words that begin so               deploy -staging  the first without the second (or NOT)
    deploy OR release        either; `a b OR c` is (a b) or c  (a OR b) c       brackets

A *word* is a run of letters and digits; case and accents do not count, so `uber` finds "Über". What joins words
(`user@example.com`, `roll-back`) is searched as a phrase. Chinese and Japanese, which are written without spaces, are
searched sign by sign.

A query becomes a small tree. The memory backend asks the tree itself; SQLite's FTS5 is given words that were made here
and are quoted, so that it decides nothing about text, and nothing in a query is ever a piece of its language. Pure.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from attrs import define, frozen

from eventstore.errors import InvalidArgument

MAX_QUERY = 1_000
"""Characters of a query."""
MAX_DEPTH = 10
"""Brackets within brackets."""
_LONGEST = 8_000
"""Characters of a word that count, in texts and queries alike: FTS5 cuts a longer one by its own lights."""
_AROUND = 60
"""Characters that an excerpt shows before and after what was found."""

_IDEOGRAPH = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_WORD = re.compile(rf"[{_IDEOGRAPH}]|[^\W_{_IDEOGRAPH}]+")
_ASCII_WORD = re.compile(r"[a-z0-9]+")
_CHUNK = re.compile(r"\S+")
_PART = re.compile(r'\s*(?P<minus>-(?!\)))?(?:(?P<bracket>[()])|"(?P<phrase>[^"]*)"(?P<star>\*)?|(?P<word>[^\s()"]+))')


# --- words --------------------------------------------------------------------------------------------------------


def words(text: str) -> list[str]:
    """The words of a text, in order, folded: without case and accents."""
    if text.isascii():
        return [word[:_LONGEST] for word in _ASCII_WORD.findall(text.lower())]
    # Decomposed twice: folding the case of some signs composes them anew.
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKD", text).casefold())
    bare = "".join(sign for sign in plain if not unicodedata.combining(sign))
    return [word[:_LONGEST] for word in _WORD.findall(bare)]


# --- the tree -----------------------------------------------------------------------------------------------------


@frozen
class Phrase:
    """Words side by side, in this order; of the last one perhaps the beginning only."""

    words: tuple[str, ...]
    prefix: bool = False


@frozen
class All:
    """Everything in `parts`, and nothing in `without`."""

    parts: tuple[Wanted, ...]
    without: tuple[Wanted, ...] = ()


@frozen
class Either:
    """At least one of them."""

    parts: tuple[Wanted, ...]


Wanted = Phrase | All | Either


def parse(query: str) -> Wanted:
    """What a query asks for.

    Raises:
        InvalidArgument: it does not parse, names nothing to look for, or is too long.
    """
    if not isinstance(query, str):
        raise InvalidArgument("query", query, "must be text")
    if len(query) > MAX_QUERY:
        raise InvalidArgument("query", query, f"must have at most {MAX_QUERY} characters")
    return _Parser(query).whole()


@define
class _Parser:
    """One query, read from left to right."""

    query: str
    place: int = 0
    depth: int = 0

    def whole(self) -> Wanted:
        wanted = self._either()
        if self._peek() is not None:
            raise self._refused("has a ) without its (")
        return wanted

    def _refused(self, reason: str) -> InvalidArgument:
        return InvalidArgument("query", self.query, reason)

    def _peek(self) -> re.Match[str] | None:
        if not self.query[self.place :].strip():
            return None
        found = _PART.match(self.query, self.place)
        if found is None:  # all else is a word, a bracket or a quoted phrase
            raise self._refused('has a " without its second one')
        return found

    def _either(self) -> Wanted:
        parts = [self._all()]
        while (found := self._peek()) is not None and found["word"] == "OR" and not found["minus"]:
            self.place = found.end()
            parts.append(self._all())
        return parts[0] if len(parts) == 1 else Either(tuple(parts))

    def _all(self) -> Wanted:
        parts: list[Wanted] = []
        without: list[Wanted] = []
        while (found := self._peek()) is not None:
            if found["bracket"] == ")" or (found["word"] == "OR" and not found["minus"]):
                break
            if found["word"] == "AND" and not found["minus"]:
                self.place = found.end()
                if not (parts or without):
                    break
                continue
            negated = found["word"] == "NOT" and not found["minus"]
            if negated:
                self.place = found.end()
                found = self._peek()
            (without if negated or (found and found["minus"]) else parts).append(self._one(found))
        if not parts:
            hint = "only what must not be there" if without else "nothing to look for"
            raise self._refused(f"names {hint}, at its beginning or beside an OR, AND or bracket; write a word there")
        return parts[0] if len(parts) == 1 and not without else All(tuple(parts), tuple(without))

    def _one(self, found: re.Match[str] | None) -> Wanted:
        if found is None or found["bracket"] == ")":
            raise self._refused("ends a part with NOT; write what must not be there behind it")
        self.place = found.end()
        if found["bracket"] == "(":
            return self._bracket()
        text = found["phrase"] if found["word"] is None else found["word"]
        prefix = bool(found["star"]) or (found["word"] is not None and text.endswith("*"))
        wanted = tuple(words(text))
        if not wanted:
            raise self._refused(f"holds {text!r}, in which there is no letter and no digit to look for; leave it out")
        return Phrase(wanted, prefix)

    def _bracket(self) -> Wanted:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise self._refused(f"has brackets more than {MAX_DEPTH} deep")
        wanted = self._either()
        closing = self._peek()
        if closing is None or closing["bracket"] != ")":
            raise self._refused("has a ( without its )")
        self.place = closing.end()
        self.depth -= 1
        return wanted


def expression(wanted: Wanted) -> str:
    """The same in FTS5's language: every word quoted, every part in brackets."""
    match wanted:
        case Phrase():
            return f'"{" ".join(wanted.words)}"{" *" if wanted.prefix else ""}'
        case Either():
            return f"({' OR '.join(map(expression, wanted.parts))})"
    given = " AND ".join(map(expression, wanted.parts))
    return f"(({given}) NOT ({' OR '.join(map(expression, wanted.without))}))" if wanted.without else f"({given})"


# --- finding ------------------------------------------------------------------------------------------------------


def found(wanted: Wanted, texts: Sequence[Sequence[str]]) -> bool:
    """Whether texts, each given as its `words`, hold what is asked for; a phrase must stand within one of them."""
    match wanted:
        case Phrase():
            return any(next(_places(wanted, text), None) is not None for text in texts)
        case Either():
            return any(found(part, texts) for part in wanted.parts)
    given = all(found(part, texts) for part in wanted.parts)
    return given and not any(found(part, texts) for part in wanted.without)


def _places(phrase: Phrase, text: Sequence[str]) -> Iterator[int]:
    *firsts, last = phrase.words
    for place in range(len(text) - len(firsts)):
        word = text[place + len(firsts)]
        if (word.startswith(last) if phrase.prefix else word == last) and [
            *text[place : place + len(firsts)]
        ] == firsts:
            yield place


def excerpt(wanted: Wanted, *texts: str | None) -> str:
    """Where it was found: some words around the first place in the first of these texts that has one, on one line."""
    phrases = [*_phrases(wanted)]
    for text in filter(None, texts):
        chunks = [*_CHUNK.finditer(text)]
        placed = [(word, chunk) for chunk in chunks for word in words(chunk[0])]
        plain = [word for word, _ in placed]
        places = [place for phrase in phrases for place in _places(phrase, plain)]
        if places:
            return _cut(text, placed[min(places)][1].start())
    return _cut(next(filter(None, texts), ""), 0)


def _phrases(wanted: Wanted) -> Iterator[Phrase]:
    if isinstance(wanted, Phrase):
        yield wanted
    else:
        for part in wanted.parts:
            yield from _phrases(part)


def _cut(text: str, place: int) -> str:
    start, stop = max(place - _AROUND, 0), place + 2 * _AROUND
    shown = " ".join(text[start:stop].split())
    return f"{'…' if text[:start].strip() else ''}{shown}{'…' if text[stop:].strip() else ''}"
