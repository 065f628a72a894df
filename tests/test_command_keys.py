"""Encrypted databases at the terminal: keys come in files, and never among the words."""

import json

import pytest

import eventstore
from eventstore import MetaSet
from tests.commanding import plain_surroundings, runfold  # noqa: F401 - a fixture of every test here

pytest.importorskip("sqlcipher3", reason="the extra runfold[encryption] is not installed")

KEY = bytes(range(32))


@pytest.fixture(autouse=True)
def files(tmp_path):
    """A database with a key, and files that hold this key and another one."""
    (tmp_path / "key").write_text(KEY.hex() + "\n")
    (tmp_path / "raw").write_bytes(KEY)
    (tmp_path / "other").write_bytes(bytes(32))
    (tmp_path / "phrase").write_text("correct horse\n")
    with eventstore.connect(tmp_path / "a.db", key=KEY) as store:
        store.append("s", MetaSet("name", "Zibeline4711"))


@pytest.mark.parametrize("name", ["key", "raw"])
def test_the_key_is_in_the_file_that_the_option_or_the_variable_names(name, monkeypatch):
    assert "Zibeline4711" in runfold("events", "a.db", "--key-file", name).output
    monkeypatch.setenv("RUNFOLD_KEY_FILE", name)
    assert "Zibeline4711" in runfold("events", "a.db").output
    assert json.loads(runfold("verify", "a.db", "--json").output)["ok"]


def test_a_wrong_or_missing_key_is_told_in_one_line():
    wrong = runfold("events", "a.db", "--key-file", "other", code=1).output
    missing = runfold("events", "a.db", code=1).output

    assert wrong == (
        "Error: the key does not open a.db: it has another key, is no database, or is damaged; check the key, nothing "
        "was changed\n"
    )
    assert "or it is encrypted; check its name, or open it with --key-file" in missing


@pytest.mark.parametrize("content", [b"", b"\n", b"\xff" * 40])
def test_a_file_that_holds_no_key_or_is_not_there_is_refused_before_a_database_is_made(content, tmp_path):
    (tmp_path / "none").write_bytes(content)

    for name, why in (("none", "holds no key"), ("nowhere", "No such file")):
        assert why in runfold("import", "new.db", "-", "--key-file", name, input="", code=2).output
    assert not (tmp_path / "new.db").exists()


def test_a_log_goes_through_a_pipe_into_an_encrypted_database(tmp_path):
    lines = runfold("export", "a.db", "--key-file", "key").output

    runfold("import", "b.db", "-", "--key-file", "phrase", input=lines)

    assert runfold("export", "b.db", "--key-file", "phrase").output.count("Zibeline4711") == 1
    assert b"SQLite format 3" not in (tmp_path / "b.db").read_bytes()


def test_a_database_is_given_another_key():
    told = runfold("rekey", "a.db", "--key-file", "key", "--new-key-file", "phrase").output

    assert told == "a.db has its new key\n"
    assert "Zibeline4711" in runfold("events", "a.db", "--key-file", "phrase").output
    runfold("events", "a.db", "--key-file", "key", code=1)


def test_a_reader_that_is_still_there_is_told_of_with_exit_code_1():
    with eventstore.connect("a.db", key=KEY) as store, store.log.reading() as view:
        view.head()
        told = runfold("rekey", "a.db", "--key-file", "key", "--new-key-file", "other", "--json", code=1).output

    assert json.loads(told) == {"database": "a.db", "clean": False}
    runfold("rekey", "a.db", "--key-file", "other", "--new-key-file", "other")


def test_the_doctor_tells_that_the_key_is_right_and_which_sqlite_encrypts():
    found = json.loads(runfold("doctor", "a.db", "--key-file", "key", "--json", code=0).output)["findings"]
    told = {finding["what"]: finding["found"] for finding in found}

    assert told["key"].startswith("right; SQLCipher 4")
    assert "with SQLite 3." in told["key"]
