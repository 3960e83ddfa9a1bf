"""The rules of the house that a machine can check: see CONTRIBUTING.md for what they are for."""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

LAYERS = (
    "errors",
    "processes",
    "alike attributes blame files folders limits locks modes task plan clustering nn kernels contractions attention "
    "copying interrupts randomness weights",
    "put_gate edits",
    "structure",
    "splitting counting gating profiling recalibrate onnx_session onnx_graph parity latency export selection masks",
    "architectures checkpoint events progress norms updates phase training data_task datasets distill",
    "passes",
    "artifact report",
    "paths detection",
    "finetune compress testing",
    "models runs demo",
    "__init__",
    "squeeze_cli",
    "examples benchmarks tests",
)
"""What may import what: a module its own line and those above it. Names are modules and folders of squeeze/."""

SOURCES = sorted(
    path for folder in ("squeeze", "squeeze_cli", "examples", "benchmarks") for path in (ROOT / folder).rglob("*.py")
)
LIBRARY = [path for path in SOURCES if path.relative_to(ROOT).parts[0] in ("squeeze", "squeeze_cli")]
TESTS = sorted((ROOT / "tests").rglob("*.py"))

DRAWERS = {"utils", "util", "common", "misc", "helpers", "helper", "tools"}
VAGUE = re.compile(r"(Manager|Engine|Session|Factory|Helper|Util|Utils)$")


def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def place(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def layer(module: str) -> int:
    top, *rest = module.split(".")
    room = top if top != "squeeze" else rest[0] if rest else "__init__"
    numbers = [number for number, names in enumerate(LAYERS) if room in names.split()]
    assert numbers, f"{module} has no layer: say in LAYERS where it belongs"
    return numbers[0]


def at_runtime(tree: ast.AST) -> Iterator[ast.AST]:
    """All nodes but those below ``if TYPE_CHECKING``."""
    for node in ast.iter_child_nodes(tree):
        if not (isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")):
            yield node
            yield from at_runtime(node)


def imports(path: Path) -> set[str]:
    """Modules of this repository that a file imports."""
    modules = {module_name(other) for other in SOURCES}
    found: set[str] = set()
    for node in at_runtime(parse(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and not node.level:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & modules
            found |= inside or {str(node.module)}
    return found & modules


def calls(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Dotted names that are called, and where."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node.lineno


def functions(tree: ast.AST) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_imports_point_one_way() -> None:
    wrong = [
        f"{module_name(path)} imports {other}"
        for path in SOURCES
        for other in imports(path)
        if layer(other) > layer(module_name(path))
    ]
    assert wrong == []


def test_the_contributing_guide_names_every_room() -> None:
    named = set(re.findall(r"`(?:squeeze/)?([a-z_]+)(?:\.py|/)`", (ROOT / "CONTRIBUTING.md").read_text()))
    rooms = {
        path.stem for path in (ROOT / "squeeze").iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()
    }
    assert rooms - named - {"__init__"} == set()


def test_imports_make_no_circle() -> None:
    graph = {module_name(path): imports(path) - {module_name(path)} for path in SOURCES}
    left = dict(graph)
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert sorted(left) == []


def test_passes_do_not_import_each_other() -> None:
    for path in (ROOT / "squeeze" / "passes").rglob("*.py"):
        own = ".".join(module_name(path).split(".")[:3])
        allowed = ("squeeze.passes.base", own)
        others = {name for name in imports(path) if name.startswith("squeeze.passes.") and not name.startswith(allowed)}
        assert others == set(), place(path)


def test_examples_and_benchmarks_use_the_public_api_only() -> None:
    public = (
        "squeeze",
        "squeeze.nn",
        "squeeze.testing",
        "squeeze.paths",
        "squeeze.detection",
        "examples",
        "benchmarks",
    )
    wrong = [
        f"{place(path)} imports {other}"
        for path in SOURCES
        if path not in LIBRARY
        for other in imports(path)
        if other not in public and not other.startswith(("examples.", "benchmarks."))
    ]
    assert wrong == []


def test_files_fit_in_the_head() -> None:
    long = {place(p): n for p in [*SOURCES, *TESTS] if (n := len(p.read_text().splitlines())) > 400}
    assert long == {}


def test_functions_take_few_parameters() -> None:
    many = []
    for path in LIBRARY:
        for function in functions(parse(path)):
            arguments = function.args
            names = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
            if len([name for name in names if name not in ("self", "cls")]) > 6:
                many.append(f"{place(path)}:{function.lineno} {function.name}")
    assert many == []


def test_names_say_what_a_thing_is() -> None:
    drawers = [place(path) for path in [*SOURCES, *TESTS] if path.stem in DRAWERS or path.parent.name in DRAWERS]
    vague = [
        f"{place(path)}: {node.name}"
        for path in [*SOURCES, *TESTS]
        for node in ast.walk(parse(path))
        if isinstance(node, ast.ClassDef) and VAGUE.search(node.name)
    ]
    assert (drawers, vague) == ([], [])


def test_nothing_is_unpickled_or_evaluated() -> None:
    forbidden = {"eval", "exec", "torch.save", "torch.load", "joblib.load", "np.load", "numpy.load"}
    wrong = []
    for path in SOURCES:
        tree = parse(path)
        names = {a.name for node in ast.walk(tree) if isinstance(node, ast.Import) for a in node.names}
        names |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
        wrong += [f"{place(path)} imports {name}" for name in names & {"pickle", "dill", "cloudpickle", "shelve"}]
        if place(path) != "squeeze/weights.py":
            wrong += [f"{place(path)}:{line} {name}" for name, line in calls(tree) if name in forbidden]
    assert wrong == []


def test_one_place_reads_pickle_and_does_so_safely() -> None:
    loads = [
        node
        for node in ast.walk(parse(ROOT / "squeeze" / "weights.py"))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"
    ]
    assert loads, "squeeze/weights.py is where checkpoints are read"
    for node in loads:
        assert "weights_only" in {keyword.arg for keyword in node.keywords}


def test_only_learners_go_backward() -> None:
    learners = ("squeeze/updates.py", "squeeze/finetune.py", "squeeze/passes/")
    wrong = [
        f"{place(path)}:{line}"
        for path in SOURCES
        if not place(path).startswith(learners)
        for name, line in calls(parse(path))
        if name.endswith(".backward")
    ]
    assert wrong == []


def test_no_private_name_crosses_a_module() -> None:
    wrong = []
    for path in [*SOURCES, *TESTS]:
        tree = parse(path)
        ours: set[str] = set()
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and str(node.module).split(".")[0] in ("squeeze", "squeeze_cli"):
                ours |= {alias.asname or alias.name for alias in node.names}
                wrong += [f"{place(path)}:{node.lineno} {a.name}" for a in node.names if is_private(a.name)]
            elif isinstance(node, ast.Import):
                ours |= {a.name for a in node.names if a.name.split(".")[0] in ("squeeze", "squeeze_cli")}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and is_private(node.attr) and ast.unparse(node.value) in ours:
                wrong.append(f"{place(path)}:{node.lineno} {ast.unparse(node)}")
    assert wrong == []


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def test_modules_hold_no_mutable_state() -> None:
    wrong = []
    for path in LIBRARY:
        for node in parse(path).body:
            value = getattr(node, "value", None)
            target = node.targets[0] if isinstance(node, ast.Assign) else getattr(node, "target", None)
            mutable = isinstance(value, ast.Dict | ast.List | ast.Set | ast.ListComp | ast.DictComp | ast.SetComp)
            if mutable and isinstance(target, ast.Name) and not target.id.isupper() and target.id != "__all__":
                wrong.append(f"{place(path)}:{node.lineno} {target.id}")
    assert wrong == []


def test_every_test_checks_something() -> None:
    empty = []
    for path in TESTS:
        local = {function.name: function for function in functions(parse(path))}
        for name, function in local.items():
            if name.startswith("test_") and not checks(function, local):
                empty.append(f"{place(path)}:{function.lineno} {name}")
    assert empty == []


def checks(function: ast.FunctionDef | ast.AsyncFunctionDef, local: dict[str, Any]) -> bool:
    """A function asserts or raises, itself or through others of its file."""
    words = ("assert", "check", "raises", "warns")
    called = {name.split(".")[-1] for name, _ in calls(function)}
    named = any(name.lstrip("_").startswith(words) for name in called)
    asserts = any(isinstance(node, ast.Assert) for node in ast.walk(function))
    others = {name: other for name, other in local.items() if name != function.name}
    return named or asserts or any(checks(others[name], others) for name in called & others.keys())


def test_no_test_is_left_out() -> None:
    wrong = [
        f"{place(path)}:{node.lineno}"
        for path in TESTS
        for node in ast.walk(parse(path))
        if isinstance(node, ast.Attribute) and node.attr in ("skip", "skipif", "xfail", "importorskip")
    ]
    assert wrong == []


def test_nobody_edits_the_import_path() -> None:
    path_name = "sys." + "path"
    wrong = [place(path) for path in [*SOURCES, *TESTS] if path_name in path.read_text()]
    assert wrong == []


def test_no_path_of_one_machine_is_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    machine = re.compile(r"(?<![\w.\-])/(?:work|root|home|tmp|Users)/")
    texts = [ROOT / name for name in listed.split("\0") if Path(name).suffix in TEXT or Path(name).name in NAMED]
    assert texts
    wrong = [place(path) for path in texts if path.exists() and machine.search(path.read_text(encoding="utf-8"))]
    assert wrong == []


TEXT = {".py", ".md", ".toml", ".cfg", ".json", ".j2", ".html", ".css", ".yml", ".yaml", ".txt"}
NAMED = {"Makefile", "run"}
DOCUMENTS = sorted(
    place(path) for folder in ("", "docs/", "benchmarks/", "examples/*/") for path in ROOT.glob(f"{folder}*.md")
)


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_targets_and_files_that_exist(document: str) -> None:
    text = (ROOT / document).read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert set(re.findall(r"\bmake ([a-z]+(?:-[a-z]+)*)", text_of_code(text))) <= targets
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not ((ROOT / document).parent / link).exists()] == []


def text_of_code(markdown: str) -> str:
    """What a document shows as code: fenced blocks and spans between backticks."""
    return "\n".join(re.findall(r"```[a-z]*\n(.*?)```", markdown, re.DOTALL) + re.findall(r"`([^`\n]+)`", markdown))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_documents_name_only_commands_that_exist(document: str) -> None:
    from squeeze_cli.main import cli

    named = re.findall(r"(?:^|`|\s)squeeze ([a-z]+)", text_of_code((ROOT / document).read_text()))
    assert set(named) <= set(cli.commands)
