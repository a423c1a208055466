"""The house stays as it was drawn: import directions, sizes, names, and no copies of lists."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

from pqm_plugin.models.families import FAMILIES
from pqm_plugin.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "pqm_plugin"
ROOMS = ("models", "quantize", "adapters", "corpus", "metrics", "report")
LEAVES = {"biasing", "devices", "errors", "files", "forwards", "imports", "processes", "progress", "records"}
LEAVES |= {"settings", "words", "worker_imports"}
MODULES = sorted(PACKAGE.rglob("*.py"))


def tracked(*patterns):
    listed = subprocess.run(["git", "-C", ROOT, "ls-files", *patterns], capture_output=True, text=True, check=True)
    return [ROOT / line for line in listed.stdout.splitlines() if (ROOT / line).exists()]


def imports(path):
    """Dotted names that a file imports, at the top or on use."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(dotted):
    parts = dotted.split(".")
    return parts[1] if parts[0] == "pqm_plugin" and len(parts) > 1 else None


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_run_one_way(path):
    room = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = {room_of(name) for name in imports(path)} - {None}

    if room in ROOMS:
        assert found <= {room, *LEAVES}
    elif room in ("engine", "runtime"):
        assert found <= {room, *ROOMS, *LEAVES}
    elif room == "stages":
        assert found <= {"stages", "engine", *ROOMS, *LEAVES}
    elif room == "personal":
        assert found <= {"personal", "engine", "runtime", *ROOMS, *LEAVES}
    elif room == "page":
        assert found <= {"page", "personal", "adapters", "corpus", "metrics", *LEAVES}
    elif room == "api":
        assert found <= {"api", "page", "personal", "adapters", "corpus", "models", *LEAVES}
    elif room == "commands":
        assert found <= {"commands", "personal", "page", "api", "corpus", "__version__", *LEAVES}
    elif room in LEAVES:
        assert found <= LEAVES
    elif room == "__init__":
        assert found == {"personal"}
    else:
        assert found <= {"stages", "corpus", *LEAVES}


def test_only_models_know_espnet_and_only_their_own_rooms_know_the_other_libraries():
    homes = {
        "espnet": "models",
        "espnet2": "models",
        "espnet_model_zoo": "models",
        "bitsandbytes": "quantize",
        "loralib": "models",
        "jiwer": "metrics",
        "matplotlib": "report",
        "kaldiio": "corpus",
        "lhotse": "corpus",
        "ctranslate2": "models",
        "soundfile": "corpus",
        "av": "corpus",
        "sounddevice": "corpus",
        "transformers": "models",
        "tokenizers": "models",
        "whisper": "models",
        "onnxruntime": "runtime",
        "gradio": "page",
        "fastapi": "page",
        "uvicorn": "page",
        "starlette": "api",
        "wyoming": "api",
    }
    # A program of its own, which knows nothing of this package.
    strangers = {"stock_worker.py"}
    for path in MODULES:
        for name in imports(path):
            home = homes.get(name.split(".")[0])
            # The runtime spells what a loop's rest is scored by.
            home = None if (name, path.name) == ("tokenizers", "tokens.py") else home
            assert path.name in strangers or home in (None, path.relative_to(PACKAGE).parts[0]), (
                f"{path} imports {name}"
            )


def test_only_the_engine_attaches_adapters_and_trains_them():
    known = {"pqm_plugin.adapters.lora.attach", "pqm_plugin.adapters.train.train_adapter"}
    known |= {"pqm_plugin.adapters.train.train_together"}
    for path in MODULES:
        if path.relative_to(PACKAGE).parts[0] not in ("engine", "adapters"):
            assert not known & set(imports(path)), path


def test_nothing_outside_of_models_branches_on_the_family():
    # The runtime has graphs of a family each.
    outside = [path for path in MODULES if path.relative_to(PACKAGE).parts[0] not in ("models", "runtime")]
    for path in [*outside, *tracked("tests/stages/*.py")]:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Compare | ast.MatchValue):
                assert not family_names(ast.dump(node)), f"{path}, line {node.lineno}"
    # ESPnet's own call, for its users: what it gives only a model of ESPnet's has.
    known = {"pqm_plugin/personal/speech2text.py"}
    for path in outside:
        found = {name for name in imports(path) if re.match(r"pqm_plugin\.models\.(whisper|espnet)", name)}
        assert not found or str(path.relative_to(ROOT)) in known, f"{path} imports {found}"
    for path in tracked("egs/*.sh", "egs/*/*.sh"):
        tests = re.findall(r"^.*(?:\[ |\[\[ |case |==).*$|^\s*[\w|* ]+\)\s*$", path.read_text(), re.M)
        assert not any(family_names(line) for line in tests), path


def family_names(text):
    """What of a text names a model family, by its module or by what it calls itself."""
    names = [name for family in FAMILIES for name in (family.NAME, family.KEY)]
    return [name for name in names if re.search(rf"\b{name}\b", text, re.I)]


def test_a_comparison_with_a_family_is_seen():
    assert family_names(ast.dump(ast.parse("family.NAME == 'ESPnet AED'")))
    assert family_names('[ "${family}" = whisper ] || exit')
    assert not family_names(ast.dump(ast.parse("system.key == 'espnet'")))


def test_files_and_functions_fit_a_few_screens():
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert len(text.splitlines()) < 500, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                lines = body[-1].end_lineno - body[0].lineno + 1 if body else 0
                assert lines <= 60, f"{path}: {node.name} has {lines} lines"


def test_every_module_and_every_public_thing_says_what_it_is():
    for path in MODULES:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        for node in tree.body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
                assert ast.get_docstring(node), f"{path}: {node.name}"


def test_the_shell_has_the_stages_of_python_by_number_and_name():
    shell = (ROOT / "egs/pqm.sh").read_text()

    found = re.findall(r'if want (\d); then\n    log "Stage (\d): (\w+):[^\n]*\n(?:[^\n]*\n)*?    pqm (\w+)\nfi', shell)

    assert [(int(a), int(b), c, d) for a, b, c, d in found] == [
        (number, number, name, name) for number, name in enumerate(STAGES, start=1)
    ]
    assert len(shell.splitlines()) < 100


def test_every_stage_is_a_function_of_the_recipe():
    for name in STAGES:
        tree = ast.parse((PACKAGE / "stages" / f"{name}.py").read_text())
        [run] = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "run"]
        assert [argument.arg for argument in run.args.args] == ["recipe"]


def test_there_are_no_symbolic_links_and_no_paths_of_one_machine():
    for path in tracked():
        assert not path.is_symlink(), path
        if path.suffix in {".py", ".sh", ".md", ".yaml", ".json", ".toml"}:
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"/(tmp|root|work|home/[a-z]+)/", text) or path.name == Path(__file__).name, path


def test_every_dependency_that_is_imported_is_declared():
    declared = {re.split(r"[\[><=!~]", name)[0].lower() for name in re.findall(r'^\s+"([^"]+)",?$', setup(), re.M)}
    declared |= {re.split(r"[\[><=!~]", name)[0].lower() for name in re.findall(r'\["([^"]+)"\]', setup())}
    names = {
        "yaml": "pyyaml",
        "espnet2": "espnet",
        "espnet_model_zoo": "espnet",
        "whisper_normalizer": "whisper-normalizer",
        "whisper": "openai-whisper",
    }
    # ESPnet is decorated with it, and brings it.
    names |= {"typeguard": "espnet"}
    # gradio is built on these three, and brings them.
    names |= {"espeakng_loader": "espeakng-loader", "fastapi": "gradio", "uvicorn": "gradio", "starlette": "gradio"}
    import sys

    for path in [*MODULES, *(ROOT / "egs").rglob("*.py")]:
        for name in imports(path):
            top = name.split(".")[0]
            local = top == "pqm_plugin" or top in {sibling.stem for sibling in path.parent.glob("*.py")}
            if not local and top not in sys.stdlib_module_names:
                assert names.get(top, top).lower() in declared, f"{path} imports {top}"


def setup():
    return (ROOT / "setup.py").read_text()
