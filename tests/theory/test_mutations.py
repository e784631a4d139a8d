"""Errors planted in a copy of the sources: the claim named for each error notices it."""

from concurrent.futures import ThreadPoolExecutor

import pytest

import theory
from theory import mutations


def test_every_error_can_be_planted_and_names_a_claim(tmp_path):
    names = [mutation.name for mutation in mutations.MUTATIONS]
    assert len(set(names)) == len(names) >= 20
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


@pytest.mark.slow
def test_no_error_goes_unnoticed(tmp_path):
    """One error per file of the library; `python -m theory --mutate` plants all of them."""
    planted = list({mutation.file: mutation for mutation in mutations.MUTATIONS}.values())
    assert len(planted) >= 15
    expected = sorted({mutation.claim for mutation in planted})
    cases = [(None, expected), *((mutation, [mutation.claim]) for mutation in planted)]
    with ThreadPoolExecutor(2) as pool:
        untouched, *caught = pool.map(lambda case: mutations.noticing_claims(*case, cache=tmp_path), cases)
    assert not untouched  # the claims hold on a copy without any error
    survivors = [mutation.name for mutation, claims in zip(planted, caught, strict=True) if not claims]
    assert not survivors
