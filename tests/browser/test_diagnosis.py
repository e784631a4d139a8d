"""The page of a diagnosis in a browser: of a binary task with everything that it can show."""

# pyright: reportArgumentType=false
from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

import gsjax
from gsjax.objectives import Ridge
from tests.diagnosis.problem import network, problem


@pytest.fixture(scope="module")
def diagnosis(tmp_path_factory) -> str:
    """The page of a network with an attribute, pictures of the examples, and parameters after some training."""
    path = tmp_path_factory.mktemp("diagnosis") / "page.html"
    with jax.enable_x64(True):
        params, *arrays = problem()
        x, y, group = map(jnp.asarray, arrays)
        trained = {name: value * 1.1 for name, value in params.items()}
        pictures = jax.random.uniform(jax.random.key(1), (len(x), 6, 6, 3))
        made = gsjax.diagnose(
            network, params, x, y, penalty=Ridge(0.1), top=5, trained_params=trained, group=group, inputs=pictures
        )
        made.to_html(path)
    return path.as_uri()


def test_diagnosis(diagnosis, look):
    look(diagnosis, "diagnosis")
