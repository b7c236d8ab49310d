"""Which way imports may point, and what else holds for every file of a package."""

import ast
import graphlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("tfrs_twotower", "pipelines", "serving")

# The composition roots: they may import all, and only they import one another.
ROOTS = {"tfrs_twotower.api", "tfrs_twotower.cli"}
# The public face names what is where, for type checkers; it imports nothing until it is asked.
FACE = "tfrs_twotower"

# What nothing but a root may import, by package; the exceptions are the shared parts.
FORBIDDEN = {
    "tfrs_twotower": ("apache_beam", "grpc", "pipelines", "serving"),
    "pipelines": ("grpc", "serving", "tfrs_twotower"),
    "serving": ("apache_beam", "pipelines", "tfrs_twotower"),
}
SHARED = {
    "tfrs_twotower": (),
    # The pipeline encodes with the very ops of the served model.
    "pipelines": ("tfrs_twotower.schema", "tfrs_twotower.features.encoding"),
    "serving": ("tfrs_twotower.schema",),
}

# From the bottom up: a module imports from its own line and those above it only.
LAYERS = [
    ["schema"],
    ["keras"],
    ["features"],
    ["losses"],
    ["data"],
    ["models"],
    ["index"],
    ["retrieval"],
    ["publishing"],
    ["evaluation"],
    ["training"],
]

FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_names(path: Path) -> Iterator[str]:
    """Every name that a file imports, at its top or within a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def is_within(name: str, parent: str) -> bool:
    return f"{name}.".startswith(f"{parent}.")


def is_root(module: str) -> bool:
    return module == FACE or any(is_within(module, root) for root in ROOTS)


def imported_by(name: str) -> set[str]:
    """The project's modules that a module imports, roots left out."""
    path = next(path for path in FILES if module_name(path) == name)
    modules = {module_name(path) for path in FILES}
    found = set()
    for imported in imported_names(path):
        target = imported if imported in modules else imported.rpartition(".")[0]
        if target in modules and target != name:
            found.add(target)
    return found


MODULES = [module_name(path) for path in FILES]


def test_there_are_files_to_look_at():
    assert {"tfrs_twotower.schema.config", "pipelines", "serving"} <= set(MODULES)


@pytest.mark.parametrize("package", PACKAGES)
def test_a_package_imports_only_what_its_arrow_allows(package):
    offences = [
        f"{module_name(path)} imports {name}"
        for path in FILES
        if is_within(module_name(path), package) and not is_root(module_name(path))
        for name in imported_names(path)
        if any(is_within(name, forbidden) for forbidden in FORBIDDEN[package])
        and not any(is_within(name, shared) for shared in SHARED[package])
    ]

    assert offences == []


def test_nothing_imports_the_command_line():
    offences = [
        f"{module_name(path)} imports {name}"
        for path in FILES
        if not is_root(module_name(path))
        for name in imported_names(path)
        if any(is_within(name, root) for root in ROOTS)
    ]

    assert offences == []


def test_imports_have_no_cycles():
    graph = {name: imported_by(name) for name in MODULES if not is_root(name)}
    # A package's own file is its face: it gathers names from within.
    for name in graph:
        graph[name] -= {other for other in graph if is_within(name, other)}

    list(graphlib.TopologicalSorter(graph).static_order())


def test_lower_layers_know_nothing_of_higher_ones():
    height = {name: number for number, layer in enumerate(LAYERS) for name in layer}

    def layer_of(module: str) -> int | None:
        parts = module.split(".")
        known = parts[0] == "tfrs_twotower" and len(parts) > 1
        return height.get(parts[1]) if known else None

    offences = []
    for name in MODULES:
        for imported in imported_by(name):
            own, other = layer_of(name), layer_of(imported)
            if own is not None and other is not None and other > own:
                offences.append(f"{name} imports {imported}")

    assert offences == []


@pytest.mark.parametrize(
    ("module", "absent"),
    [
        pytest.param("tfrs_twotower.schema", ["tensorflow", "pandas"], id="schema"),
        pytest.param("tfrs_twotower.cli", ["tensorflow", "apache_beam", "scann"], id="cli"),
        pytest.param("tfrs_twotower.training.train", ["apache_beam", "grpc"], id="train"),
        pytest.param("tfrs_twotower.datasets", ["tensorflow", "apache_beam"], id="datasets"),
        pytest.param(
            "serving.client", ["apache_beam", "tfrs_twotower.training.train"], id="client"
        ),
    ],
)
def test_a_module_loads_without(module, absent):
    script = f"import sys, {module}\nprint([name for name in {absent!r} if name in sys.modules])"

    printed = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout

    assert printed.splitlines()[-1] == "[]"


def test_the_pipelines_annotations_are_values():
    """Postponed annotations turn Beam's type checks off without a word."""
    offences = [
        module_name(path)
        for path in FILES
        if is_within(module_name(path), "pipelines")
        and "__future__.annotations" in imported_names(path)
    ]

    assert offences == []


def test_nothing_unpickles():
    """A pickle of a stranger runs his code."""
    picklers = ("pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal")
    offences = [
        f"{module_name(path)} imports {name}"
        for path in FILES
        for name in imported_names(path)
        if any(is_within(name, pickler) for pickler in picklers)
    ]

    assert offences == []


def test_keras_is_picked_in_one_place():
    """A second place might import Keras 3, which TensorFlow Recommenders does not work with."""
    libraries = ("tf_keras", "keras", "tensorflow.keras", "tensorflow_recommenders")
    offences = [
        f"{module_name(path)} imports {name}"
        for path in FILES
        if module_name(path) != "tfrs_twotower.keras"
        for name in imported_names(path)
        if any(is_within(name, library) for library in libraries)
    ]

    assert offences == []


def test_no_public_function_takes_keywords_that_it_does_not_name():
    """Completion, type checkers and `help` know nothing of `**options`."""
    offences = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in FILES
        if is_within(module_name(path), "tfrs_twotower")
        for node in public_functions(ast.parse(path.read_text(encoding="utf-8")))
        if node.args.kwarg is not None
    ]

    assert offences == []


def public_functions(parent: ast.Module | ast.ClassDef) -> Iterator[ast.FunctionDef]:
    """Those of a module and of its public classes; a dunder's signature is given by its caller."""
    for node in parent.body:
        is_public = not getattr(node, "name", "_").startswith("_")
        if isinstance(node, ast.FunctionDef) and is_public:
            yield node
        elif isinstance(node, ast.ClassDef) and is_public:
            yield from public_functions(node)
