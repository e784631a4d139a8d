"""Properties of every probe in the registry."""

from __future__ import annotations

import inspect

import pytest

from gsjax import probes

FUNCTIONS = {
    f"{name}.{function}": getattr(module, function)
    for name, module in probes.REGISTRY.items()
    for function in module.__all__
    if inspect.isfunction(getattr(module, function))
}


def test_names():
    for name in probes.NAMES:
        assert probes.get(name) is getattr(probes, name)
        assert name in probes.__all__
        assert any(function.startswith(f"{name}.") for function in FUNCTIONS)
    with pytest.raises(ValueError, match=r"^name: expected one of .*, got 'distances'"):
        probes.get("distances")


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_documents_its_errors_and_has_an_example(name):
    text = inspect.getdoc(FUNCTIONS[name]) or ""
    first = text.partition("\n\n")[0]
    assert first.endswith(".")
    assert "Raises:" in text or "errors are those of" in text, "documented errors"
    assert ">>> " in text, "an example"


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_argument_and_result_has_a_type(name):
    signature = inspect.signature(FUNCTIONS[name])
    found = {**{p.name: p.annotation for p in signature.parameters.values()}, "return": signature.return_annotation}
    assert [name for name, annotation in found.items() if annotation is inspect.Signature.empty] == []
