"""One place for how the tests run: Hypothesis' profiles, and readable failures of the contract suite."""

import os

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("eventstore.testing")

settings.register_profile("here", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "here")
