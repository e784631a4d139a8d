"""Errors that can be planted in copies of the sources; `tests/benchmarks/test_planted_errors.py` plants them."""

import pytest

import theory
from theory import mutations


def test_every_error_can_be_planted_and_names_a_claim(tmp_path):
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names) >= 20
    assert len({mutation.file for mutation in mutations.MUTATIONS}) >= 15  # `make slow` plants one per file
    for mutation in mutations.MUTATIONS:
        assert mutation.claim in theory.claims()
        text = (mutations.ROOT / mutation.file).read_text(encoding="utf-8")
        assert text.count(mutation.old) == 1, mutation.name
        assert mutation.new != mutation.old
    first = mutations.MUTATIONS[0]
    mutations.plant(first, tmp_path)
    assert first.new in (tmp_path / first.file).read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="expected 'nowhere to be found' once"):
        mutations.plant(first._replace(old="nowhere to be found"), tmp_path)
