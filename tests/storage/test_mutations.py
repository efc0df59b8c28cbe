"""The list of safeguards that tests.mutating_storage takes away is up to date."""

from __future__ import annotations

import pytest

from tests.mutating_storage import MUTATIONS, ROOT, Mutation


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_a_safeguard_stands_where_it_is_said_to(mutation: Mutation) -> None:
    source = (ROOT / "asyncflow" / "storage" / mutation.module).read_text()
    assert source.count(mutation.before) == 1
