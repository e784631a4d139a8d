"""Errors planted in copies of the sources: the claim named for each error notices it. Nothing is timed."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from theory import mutations


def test_no_error_goes_unnoticed(tmp_path, once):
    """`make bench` plants all of them, `make slow` one per file of the library."""
    per_file = {mutation.file: mutation for mutation in mutations.MUTATIONS}
    planted = list(per_file.values()) if once else list(mutations.MUTATIONS)
    expected = sorted({mutation.claim for mutation in planted})
    cases = [(None, expected), *((mutation, [mutation.claim]) for mutation in planted)]
    with ThreadPoolExecutor(2) as pool:
        untouched, *caught = pool.map(lambda case: mutations.noticing_claims(*case, cache=tmp_path), cases)
    assert not untouched  # the claims hold on a copy without any error
    survivors = [mutation.name for mutation, claims in zip(planted, caught, strict=True) if not claims]
    assert not survivors
