"""Every command that README, BUILD, docs/ and the configs show is one that their readers can run.

Commands of ours are read by the very parser that would run them, with the work itself left out; scripts make a dry run;
what installs is held against the extras that there are; blocks of Python are compiled. A command of a kind that is not
known here fails: someone must say how it is checked.
"""

import ast
import importlib.util
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

import research
from research import config
from research.analysis import page
from research.benchmarks import pairs
from research.commands import COMMANDS, generate, plan
from research.config import config_file, validation
from research.planning import inference
from research.runs import convert, evaluate, preparing, replay, trainer
from research.runtime import processes

ROOT = Path(__file__).resolve().parents[2]
PAGES = [*(ROOT / name for name in ("README.md", "BUILD.md", "CONTRIBUTING.md")), *sorted((ROOT / "docs").glob("*.md"))]
CONFIGS = sorted((ROOT / "configs").glob("*.py"))
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])
# what a reader replaces -> what stands for it here
PLACES = {"CONFIG": "configs/quickstart.py", "BUCKET": "mine", "I/8": "3/8", "DIR": "theirs", "NAME": "mine"}
PROGRAMS = r"\./|\.ci/|\.venv/|newest/|python|pip |gcloud |sbatch |sky |uv |plan\b|pre-commit"
SHELL = rf"(?:{PROGRAMS}|(?:[A-Z_]+=\S+ )+python|n=0; while)"
# programs of others, with arguments that are not ours to check
OTHERS = {"gcloud", "sky", "uv", "pre-commit", "source", "(head", "mv", ".venv/bin/jupyter"}
SCRIPTS = {"./launch/tpu_pod.sh", "./launch/gpu.sh", "./launch/slurm.sbatch", "python3 launch/gke/run.py"}


def blocks(text: str) -> Iterator[tuple[str, str]]:
    """Language and content of every fenced block."""
    return (found.groups() for found in re.finditer(r"^```(\w*)\n(.*?)^```", text, flags=re.S | re.M))


def commands(text: str) -> list[str]:
    """The commands of the fenced blocks, one a line, without comments and what stands behind them in brackets."""
    lines = []
    for language, block in blocks(text):
        joined = re.sub(r"\\\n\s*", "", block)
        if language in ("", "bash", "sh") and re.match(SHELL, joined):
            lines += [line for line in joined.splitlines() if re.match(SHELL, line)]
    return [bare(line) for line in lines]


def bare(line: str) -> str:
    """Without what is said behind it."""
    return line if line.startswith(("n=0", "plan()")) else re.sub(r"\s+(#|\().*$", "", line)


def of_config(path: Path) -> list[str]:
    """The commands of a config's docstring."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return [bare(line) for line in text.splitlines() if line.startswith("./")]


ON_PAGES = {line: path.name for path in reversed(PAGES) for line in commands(path.read_text(encoding="utf-8"))}
IN_CONFIGS = {line: path.name for path in CONFIGS for line in of_config(path)}
DOCUMENTED = ON_PAGES | IN_CONFIGS


class Parsed(Exception):
    """A command has read all its arguments, and would begin its work."""


@pytest.fixture
def parser(monkeypatch, tmp_path):
    """Runs a command of ours until its work begins."""

    def begins(*arguments, **settings):
        raise Parsed

    def trains(experiment, *_):
        validation.validate(experiment)
        raise Parsed

    for module, name in (
        (research, "load"),
        (page, "write"),
        (pairs, "side"),
        (evaluate, "run"),
        (generate, "show"),
        (convert, "convert"),
        (plan, "plan"),
        (inference, "plan"),
        (preparing, "prepare"),
        (replay, "replay"),
    ):
        monkeypatch.setattr(module, name, begins)
    monkeypatch.setattr(trainer, "train", trains)
    for name in ("configure_jax", "initialize"):
        monkeypatch.setattr(processes, name, lambda *_: None)
    monkeypatch.setenv("RESEARCH_CACHE", str(tmp_path))  # which a benchmark changes
    config.save(config_file.read(ROOT / "configs/quickstart.py"), tmp_path / "experiment.json")
    monkeypatch.chdir(ROOT)

    def run(words: list[str]) -> None:
        words = [str(tmp_path / "experiment.json") if word.endswith("/experiment.json") else word for word in words]
        assert words[0] in COMMANDS, f"{words[0]} is no command"
        with pytest.raises(Parsed):
            importlib.import_module(COMMANDS[words[0]]).main(words[1:])

    return run


def ours(words: list[str]) -> list[str] | None:
    """The arguments of `research` in a command, if it is one of ours."""
    while words and re.fullmatch(r"[A-Z_]+=\S*", words[0]):
        words = words[1:]
    if words[0] == "plan":  # the function that docs/scale.md defines
        return [*words, "--alternatives", "0"]
    for begin in (["./launch/local.sh"], ["python", "-m", "research"], [".venv/bin/python", "-m", "research"]):
        if words[: len(begin)] == begin:
            return words[len(begin) :]
    return None


@pytest.mark.parametrize(
    "line",
    [*ON_PAGES, *(pytest.param(line, marks=pytest.mark.slow) for line in IN_CONFIGS if line not in ON_PAGES)],
    ids=lambda line: f"{DOCUMENTED[line]}: {line[:60]}",
)
def test_a_documented_command_runs(parser, line):
    assert subprocess.run(["bash", "-n"], input=line + "\n:\ndone" * line.startswith("n=0"), text=True).returncode == 0
    if line.startswith("n=0") or line.startswith("plan()"):
        return
    for part in line.split(" && "):
        words = [re.sub("|".join(PLACES), lambda found: PLACES[found[0]], word) for word in shlex.split(part)]
        if "…" in line:
            assert Path(ROOT / words[0]).exists() or words[0] in OTHERS | {"python"}
        elif (arguments := ours(words)) is not None:
            if arguments[0] != "lm_eval":  # which reads its own arguments
                parser(arguments)
        elif any(part.startswith(script) for script in SCRIPTS):
            dry_run(words)
        else:
            others(words)


def dry_run(words: list[str]) -> None:
    """A script shows what it would do."""
    if not {"--dry-run", "--follow", "--delete"} & set(words):
        count = 2 if words[0] == "python3" else 1
        words = [*words[:count], "--dry-run", *words[count:]]
    if "--sweep" in words:
        return  # tests/launch has one
    ended = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stderr


def others(words: list[str]) -> None:
    """Tests, installations, and programs that are not ours."""
    match words:
        case ["python3", "launch/install.py", *extras]:
            assert set(extras) <= EXTRAS
        case ["pip" | ".venv/bin/pip" | "newest/bin/pip", "install", *options]:
            named = {extra for each in re.findall(r"\[(.*?)\]", " ".join(options)) for extra in each.split(",")}
            assert named <= EXTRAS
            assert all((ROOT / word).exists() for word in options if word.endswith(".txt"))
        case [("python" | ".venv/bin/python"), "-m", module, *_] if module.startswith("tests."):
            assert importlib.util.find_spec(module) is not None
        case ["python3" | "python3.12", "-m", "venv", _] | ["newest/bin/python", "-m", "pytest", *_]:
            pass
        case [("./launch/test.sh" | ".ci/run" | "./launch/fetch_smollm2.sh") as script, *rest]:
            assert os.access(ROOT / script, os.X_OK)
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
        case ["sbatch", *options]:
            script = next(word for word in options if not word.startswith("-"))
            assert (ROOT / script).exists()
        case _:
            assert words[0] in OTHERS, f"nothing here checks {words[0]}"


def test_blocks_of_python_are_python():
    for path in PAGES:
        for language, block in blocks(path.read_text()):
            if language == "python":
                compile(block, path.name, "exec")


def test_pages_are_read():
    """So that the test above cannot pass for want of commands."""
    wanted = {"README.md", "BUILD.md", "launching.md", "evaluation.md", "scale.md", "performance.md"}
    assert wanted <= set(ON_PAGES.values()) and len(ON_PAGES) > 50
    assert all(of_config(path) for path in CONFIGS), "each config begins with its command"
