"""From a URL to a store: schemes, and options that the backend has."""

import pytest

import eventstore
import projections
from eventstore.connecting import open_log, path_of
from eventstore.errors import CannotOpen, InvalidArgument
from eventstore.memory import MemoryLog


@pytest.mark.parametrize("connect", [open_log, eventstore.connect, projections.connect])
@pytest.mark.parametrize(("url", "option", "words"), [
    ("memory:", {"read_only": True}, "log in memory, which takes none"),
    ("memory:", {"synchronous": "NORMAL"}, "log in memory, which takes none"),
    ("agent.db", {"colour": "red"}, "log in SQLite, which takes create, read_only, synchronous, busy_timeout"),
    (MemoryLog(), {"create": False}, "open already, which takes none"),
])  # fmt: skip
def test_an_option_that_the_backend_does_not_have_is_refused_and_nothing_is_made(
    tmp_path, monkeypatch, connect, url, option, words
):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidArgument, match=words) as caught:
        connect(url, **option)

    assert (caught.value.name, caught.value.value) == next(iter(option.items()))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("url", "path"), [
    ("agent.db", "agent.db"), ("/srv/agent.db", "/srv/agent.db"), ("sqlite:///agent.db", "agent.db"),
    ("sqlite:////srv/agent.db", "/srv/agent.db"), ("memory:", None),
])  # fmt: skip
def test_a_url_names_a_file(url, path):
    assert path_of(url) == path


@pytest.mark.parametrize(("url", "words"), [
    (":memory:", "use a path, sqlite:///path or memory:"), ("file:agent.db", "SQLite's own way to say it"),
    ("sqlite:///agent.db?mode=ro", "takes no parameters; name them as options"),
])  # fmt: skip
def test_what_would_make_a_file_of_an_odd_name_is_refused_and_nothing_is_made(tmp_path, monkeypatch, url, words):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidArgument, match=words):
        open_log(url)

    assert list(tmp_path.iterdir()) == []


def test_a_link_that_leads_to_no_file_is_refused_and_nothing_is_made(tmp_path):
    link = tmp_path / "agent.db"
    link.symlink_to("elsewhere.db")

    with pytest.raises(CannotOpen, match="symlink that leads to no file; take it away, or name the file itself"):
        open_log(link)

    assert list(tmp_path.iterdir()) == [link]


def test_a_scheme_that_nobody_knows_is_refused():
    with pytest.raises(InvalidArgument, match="a scheme that Runfold does not know"):
        open_log("postgres://localhost/agent")


@pytest.mark.parametrize(
    ("url", "words"), [("", "is empty; name the database file"), (None, "must be a path"), (5, "must be a")]
)
def test_what_names_no_store_is_refused_in_a_sentence(tmp_path, monkeypatch, url, words):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(InvalidArgument, match=words):
        projections.connect(url)

    assert list(tmp_path.iterdir()) == []
