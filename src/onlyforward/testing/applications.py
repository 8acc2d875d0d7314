"""The laws of an application. Each begins its AssertionError with the law's name."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import json
import subprocess
import sys
import textwrap
from typing import Any

from onlyforward.run.application import applications, resolve
from onlyforward.run.context import Common

HEAVY = ("torch", "numpy", "pandas", "matplotlib", "ray")


def check_application(name: str) -> None:
    """Its declaration resolves, its options say their unit and default, its help imports nothing heavy.

    Args:
        name: of an application of this package or of an installed entry point.

    Raises:
        AssertionError: naming the law that is broken.
    """
    found = applications()
    assert name in found, f"declared: there is no application {name!r}, only {', '.join(found)}"
    application = found[name]
    assert application.name == name, f"declared: {name} calls itself {application.name}"
    loaded = imported_by_help(name)
    assert not loaded, f"light: help of {name} imports {', '.join(loaded)}"
    references = [*application.options.values(), *(bench.options for bench in application.benches.values())]
    for reference in references:
        check_options(resolve(reference), reference)
    for reference in (application.run, *(bench.run for bench in application.benches.values())):
        assert callable(resolve(reference)), f"declared: {reference} cannot be called"
    demo = resolve(application.demo)
    assert demo.targets, f"declared: the demonstration of {name} has no target"
    assert all(sign in (">=", "<=") for sign, _ in demo.targets.values()), "declared: a target has no sign"


def check_options(options: type[Any], name: str) -> None:
    """A frozen dataclass that extends `Common`, every field with a docstring, its own or that of the base."""
    assert dataclasses.is_dataclass(options), f"options: {name} is no dataclass"
    assert options.__dataclass_params__.frozen, f"options: {name} is not frozen"  # type: ignore[attr-defined]
    assert issubclass(options, Common), f"options: {name} does not extend Common"
    assert (options.__doc__ or "").strip(), f"options: {name} has no sentence for help"
    described: set[str] = set()
    for kind in reversed(options.__mro__):  # a field that only changes its default keeps the words of its base
        if kind is Common or not issubclass(kind, Common):
            continue
        (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
        assert isinstance(body, ast.ClassDef)
        for field, after in zip(body.body, [*body.body[1:], None], strict=True):
            if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                    described.add(field.target.id)
                assert field.target.id in described, f"options: {name}.{field.target.id} does not say what it is"


def imported_by_help(name: str) -> list[str]:
    """The heavy packages that a fresh process holds after it resolved all of an application's options."""
    code = (
        "import json, sys; from onlyforward.run.application import applications, resolve; "
        f"a = applications()[{name!r}]; "
        "[resolve(o) for o in [*a.options.values(), *(b.options for b in a.benches.values())]]; "
        f"print(json.dumps([m for m in {HEAVY!r} if m in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)  # noqa: S603
    return list(json.loads(done.stdout))
