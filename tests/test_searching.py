"""The language of a search: what it asks for, what it finds, what it shows, and what it refuses in one sentence."""

import pytest

from eventstore.errors import InvalidArgument
from projections.searching import MAX_DEPTH, MAX_QUERY, All, Either, Phrase, excerpt, expression, found, parse, words


def finds(query, *texts):
    return found(parse(query), [words(text) for text in texts])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Roll-back, NOW!", "roll back now"),
        ("Über naïve STRASSE straße", "uber naive strasse strasse"),
        ("Ελλάς привет İstanbul", "ελλασ привет istanbul"),
        ("日本語の文 x", "日 本 語 の 文 x"),
        ("snake_case a.b@c.d 3½", "snake case a b c d 31 2"),
        ("e\u0301te\u0301 \ufb01n", "ete fin"),
        ("\ud800 \0 _ — …", ""),
    ],
)
def test_words_are_letters_and_digits_without_case_and_accents(text, expected):
    assert " ".join(words(text)) == expected


@pytest.mark.parametrize(
    ("query", "tree"),
    [
        ("a b", All((Phrase(("a",)), Phrase(("b",))))),
        ("a AND b", All((Phrase(("a",)), Phrase(("b",))))),
        ('"a b"', Phrase(("a", "b"))),
        ("a-b", Phrase(("a", "b"))),
        ("dep*", Phrase(("dep",), prefix=True)),
        ('"a dep"*', Phrase(("a", "dep"), prefix=True)),
        ("a OR b c", Either((Phrase(("a",)), All((Phrase(("b",)), Phrase(("c",))))))),
        ("(a OR b) c", All((Either((Phrase(("a",)), Phrase(("b",)))), Phrase(("c",))))),
        ("a -b NOT c", All((Phrase(("a",)),), (Phrase(("b",)), Phrase(("c",))))),
        ("-(b c) a", All((Phrase(("a",)),), (All((Phrase(("b",)), Phrase(("c",)))),))),
        ("or and not", All((Phrase(("or",)), Phrase(("and",)), Phrase(("not",))))),
        ('"OR"', Phrase(("or",))),
    ],
)
def test_a_query_becomes_a_tree(query, tree):
    assert parse(query) == tree


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("", "nothing to look for"),
        ("  ", "nothing to look for"),
        ("-a", "only what must not be there"),
        ("a OR", "nothing to look for"),
        ("OR a", "nothing to look for"),
        ("AND a", "nothing to look for"),
        ("a OR -b", "only what must not be there"),
        ("a NOT", "write what must not be there behind it"),
        ('say "a', "without its second one"),
        ("(a", "a ( without its )"),
        ("a)", "a ) without its ("),
        ("a ()", "nothing to look for"),
        ("a -)", "no letter and no digit"),
        ("a ++", "no letter and no digit"),
        ("a *", "no letter and no digit"),
        ('a ""', "no letter and no digit"),
        ("(" * (MAX_DEPTH + 1) + "a", "deep"),
        ("a" * (MAX_QUERY + 1), "characters"),
        (None, "must be text"),
    ],
)
def test_what_does_not_parse_is_refused_in_one_sentence(query, reason):
    with pytest.raises(InvalidArgument) as refused:
        parse(query)

    assert reason in str(refused.value)
    assert "\n" not in str(refused.value)


def test_all_words_must_appear_and_a_phrase_within_one_text():
    assert finds("back roll", "roll it back")
    assert not finds('"roll back"', "roll it back")
    assert finds('"roll it"', "roll it back")
    assert not finds('"it roll"', "roll", "it roll"[3:])
    assert finds("one two", "one", "two")
    assert not finds('"one two"', "one", "two")


def test_a_prefix_is_of_the_last_word_and_or_and_without_are_what_they_say():
    assert finds('"roll ba"*', "roll back")
    assert not finds('"ro back"*', "roll back")
    assert finds("x OR roll -it", "roll back")
    assert not finds("x OR roll -it", "roll it back")


def test_what_is_handed_to_fts5_is_quoted_words_and_its_own_operators():
    hostile = 'a" OR NEAR(b, 2) {c}: ^d* -"e\'f"'.replace('a"', "a")

    assert expression(parse("a OR b* -c")) == '("a" OR (("b" *) NOT ("c")))'
    assert expression(parse(hostile)) == '("a" OR (("near" AND ("b" AND "2") AND "c" AND "d" *) NOT ("e f")))'


def test_an_excerpt_shows_words_around_the_first_place_on_one_line():
    text = "first line\n" + "filler " * 40 + "then the Deploy-\tment fails " + "more " * 60
    shown = excerpt(parse("deploy OR nothing"), None, text)

    assert shown.startswith("…")
    assert shown.endswith("…")
    assert "then the Deploy- ment fails" in shown
    assert "\n" not in shown
    assert len(shown) < 200
    assert excerpt(parse("title"), "The Title", text) == "The Title"
    assert excerpt(parse("a -b"), "", None) == ""
