"""`import tfrs_twotower as tt`: cheap, whole, documented and typed."""

import ast
import inspect
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tfrs_twotower as tt

ROOT = Path(__file__).parents[2]
PACKAGES = {"index", "losses"}
FACE = ROOT / "tfrs_twotower" / "__init__.py"


def run_python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    )
    return done.stdout


def names_for_type_checkers() -> dict[str, str]:
    """What the block under `TYPE_CHECKING` imports: name -> where it is."""
    module = ast.parse(FACE.read_text(encoding="utf-8"))
    [block] = [node for node in module.body if isinstance(node, ast.If)]
    return {
        alias.asname or alias.name: f"{node.module}:{alias.name}"
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def functions() -> list[str]:
    return [name for name in tt.__all__ if name == name.lower() and name not in PACKAGES]


def test_importing_the_package_imports_hardly_anything():
    script = (
        "import sys; before = set(sys.modules)\n"
        "import tfrs_twotower\n"
        "print(*sorted({name.split('.')[0] for name in set(sys.modules) - before}))"
    )

    imported = set(run_python(script).split())

    # All of the standard library but the package itself.
    assert imported - set(sys.stdlib_module_names) == {"tfrs_twotower"}
    assert len(imported) < 10


@pytest.mark.slow
def test_keras_3_that_was_used_before_is_told_at_import():
    # This process, whose environment the other one has, has picked Keras 2.
    first = "import os; os.environ.pop('TF_USE_LEGACY_KERAS', None); import tensorflow as tf\n"
    told = (
        "import warnings; warnings.simplefilter('error', UserWarning)\n"
        "try: import tfrs_twotower\n"
        "except UserWarning as warning: print(warning)\n"
        "else: print('fine')"
    )

    used = run_python(f"{first}tf.keras.layers.Dense(1)\n{told}")

    assert "needs Keras 2: restart the runtime" in used
    # TensorFlow decides when its Keras is first used, not when it is imported.
    assert run_python(first + told) == "fine\n"


def test_the_config_is_read_without_heavy_libraries():
    heavy = ["tensorflow", "apache_beam", "pandas", "pyarrow", "grpc"]
    script = (
        "import sys, tfrs_twotower as tt\n"
        "tt.load_config, tt.prepare, tt.train, tt.recommend\n"
        f"print([name for name in {heavy} if name in sys.modules])"
    )

    assert run_python(script) == "[]\n"


def test_type_checkers_and_python_find_the_same_names_in_the_same_places():
    found = names_for_type_checkers()

    assert sorted(found) == sorted([*tt.__all__, "__version__"])
    for name, home in found.items():
        assert pkgutil.resolve_name(tt._HOMES[name]) is pkgutil.resolve_name(home), name


def test_completion_offers_the_public_names():
    assert set(tt.__all__) < set(dir(tt))


def test_a_name_that_is_not_there_is_an_attribute_error():
    with pytest.raises(AttributeError, match="'tfrs_twotower' has no attribute 'trian'"):
        _ = tt.trian


def test_no_module_takes_the_place_of_a_public_name():
    """Importing a submodule sets an attribute of the package."""
    modules = {found.name for found in pkgutil.iter_modules([str(FACE.parent)])}

    assert modules & set(tt.__all__) == PACKAGES


def test_the_docstring_names_every_function():
    missing = [name for name in functions() if f"`{name}`" not in (tt.__doc__ or "")]

    # These two only turn a config into text and back.
    assert missing == ["dump_config", "parse_config"]


@pytest.mark.parametrize("name", tt.__all__)
def test_a_public_name_is_documented(name):
    assert inspect.getdoc(getattr(tt, name))


@pytest.mark.parametrize("name", functions())
def test_a_public_function_names_types_and_documents_its_parameters(name):
    function = getattr(tt, name)
    signature = inspect.signature(function)

    for parameter in signature.parameters.values():
        assert parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        assert parameter.annotation is not parameter.empty, parameter.name
    assert signature.return_annotation is not signature.empty
    documented = inspect.getdoc(function) or ""
    assert [p for p in signature.parameters if f"{p}:" not in documented] == []


def test_the_old_module_offers_the_same_functions():
    from tfrs_twotower import api

    for name in functions():
        assert getattr(api, name) is getattr(tt, name)
    with pytest.raises(AttributeError, match="api' has no attribute '_names'"):
        _ = api._names
