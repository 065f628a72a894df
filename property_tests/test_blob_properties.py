"""Blobs against a model: whatever is written, mentioned, damaged, aged and collected, what is needed is there."""

from datetime import timedelta
from hashlib import sha256
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

import eventstore
from eventstore.blobfiles import BlobFiles
from eventstore.blobs import Blobs
from eventstore.errors import DamagedBlob, MissingBlob, UnreadableEntry
from eventstore.files import MemoryFiles
from eventstore.memory import MemoryLog
from eventstore.notes import MetaSet
from eventstore.packing import BLOB_FROM

DAY = 86_400_000_000
CONTENTS = [f"content {number}".encode() for number in range(4)]
LARGE = [sign * BLOB_FROM for sign in "xyz"]
content = st.sampled_from(CONTENTS)
large = st.integers(0, len(LARGE) - 1)


class BlobMachine(RuleBasedStateMachine):
    """The model: what each blob's file holds and how old it is, and what the log mentions."""

    @initialize()
    def begin(self):
        self.now = 1_000 * DAY
        self.files = MemoryFiles(lambda: self.now)
        self.log = MemoryLog()
        self.log._disk.blobs = self.log.blobs = BlobFiles(Path("blobs"), self.files)
        self.store = eventstore.connect(self.log)
        self.blobs = Blobs(self.log, lambda: self.now)
        self.standing: dict[str, tuple[bytes, int]] = {}
        self.right: dict[str, bytes] = {sha256(data).hexdigest(): data for data in CONTENTS}
        self.needed: set[str] = set()
        self.values: list = []

    def path(self, digest):
        return self.log.blobs.root / digest[:2] / digest[2:]

    @rule(data=content)
    def write(self, data):
        digest = self.blobs.write(data)
        self.standing[digest] = (data, self.now)

    @rule(data=content)
    def mention(self, data):
        digest = sha256(data).hexdigest()
        self.store.append(f"s{len(self.values)}", MetaSet("n", digest))
        self.values.append(digest)
        self.needed.add(digest)

    @rule(number=large)
    def append(self, number):
        text = LARGE[number]
        self.store.append(f"s{len(self.values)}", MetaSet("n", text))
        self.values.append(text)
        with self.store.reading() as view:
            digest = view.needs()[-1].digest
            data = '{"name":"n","value":"%s"}' % text  # noqa: UP031 - braces
        self.right[digest] = data.encode()
        self.standing[digest] = (data.encode(), self.now)
        self.needed.add(digest)

    @precondition(lambda self: self.standing)
    @rule(data=st.data(), harm=st.sampled_from([b"", b"harm", None]))
    def damage(self, data, harm):
        digest = data.draw(st.sampled_from(sorted(self.standing)))
        path = self.path(digest)
        aside = path.with_name(f"{path.name}.aside")
        if harm is None:
            self.files.remove(path)
            self.files.remove(aside)
            del self.standing[digest]
        else:
            self.files.put(aside if self.files.stat(path) is None else path, harm)
            self.standing[digest] = (harm, self.now)

    @precondition(lambda self: self.standing)
    @rule(data=st.data())
    def put_aside(self, data):
        """As a collector does that is killed then."""
        digest = data.draw(st.sampled_from(sorted(self.standing)))
        path = self.path(digest)
        if self.files.stat(path) is not None:
            self.files.rename(path, path.with_name(f"{path.name}.aside"))

    @rule(days=st.integers(0, 2))
    def wait(self, days):
        self.now += days * DAY

    @rule(data=st.data())
    def heal(self, data):
        digest = data.draw(st.sampled_from(sorted(self.right)))
        self.blobs.write(self.right[digest])
        self.standing[digest] = (self.right[digest], self.now)

    @rule(dry_run=st.booleans(), days=st.integers(0, 2))
    def gc(self, dry_run, days):
        broken = [d for d in self.needed if d not in self.standing or self.standing[d][0] != self.right[d]]
        rows = {need.digest for need in self.rows()}
        before = self.now - days * DAY
        old = {digest for digest, (_, modified) in self.standing.items() if modified < before}
        try:
            found = self.blobs.gc(min_age=timedelta(days=days), dry_run=dry_run)
        except UnreadableEntry:
            assert rows & set(broken)
            return
        assert not (old and rows & set(broken))
        assert set(found.digests) == old - self.needed
        if not dry_run:
            for digest in found.digests:
                del self.standing[digest]

    def rows(self):
        with self.store.reading() as view:
            return view.needs()

    @invariant()
    def every_blob_is_what_the_model_says(self):
        for digest, right in self.right.items():
            sound = self.standing.get(digest, (None, 0))[0] == right
            assert self.blobs.exists(digest) == sound
            try:
                assert self.blobs.read(digest) == right
                assert sound
            except MissingBlob:
                assert digest not in self.standing
            except DamagedBlob:
                assert digest in self.standing
                assert not sound

    @invariant()
    def a_check_names_just_what_entries_lack(self):
        faults = {fault.digest: fault for fault in self.blobs.check().faults}
        damaged = {digest for digest, (data, _) in self.standing.items() if data != self.right[digest]}
        missing = {need.digest for need in self.rows()} - set(self.standing)
        assert set(faults) == damaged | missing
        for digest, fault in faults.items():
            assert bool(fault.needs) == (digest in self.needed)

    @invariant()
    def the_log_reads_whole_unless_a_payload_is_lost(self):
        lacking = any(self.standing.get(n.digest, (None, 0))[0] != self.right[n.digest] for n in self.rows())
        try:
            assert [item.event.value for item in self.store.read_all()] == self.values
            assert not lacking
        except UnreadableEntry:
            assert lacking


TestBlobs = BlobMachine.TestCase
TestBlobs.settings = settings(max_examples=15, stateful_step_count=15)
