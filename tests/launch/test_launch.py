"""Installing and starting: the scripts in launch/, on copies of them, with stubs for Python, pip and the driver."""

import ast
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
OTHERS = ("launch/slurm.sbatch", "docs/performance/gpu.sh", ".ci/run")
SCRIPTS = [*sorted((ROOT / "launch").glob("*.sh")), *(ROOT / name for name in OTHERS)]
COMMON = "gguf,metrics,parquet,tfds"  # extras that every command may need
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_scripts_are_clean(script):
    tools = Path(sys.executable).parent
    for command in ([tools / "shellcheck", "-x"], [tools / "shfmt", "-i", "2", "-d"]):
        checked = subprocess.run([*command, script], cwd=ROOT, capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout


def test_every_direct_dependency_has_one_exact_version_and_no_address():
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r"[a-z0-9-]+==[0-9][0-9a-z.]*", pin) for pin in pins)
    names = [pin.partition("==")[0] for pin in pins]
    assert len(set(names)) == len(names)
    assert asked_for() <= set(names)


def test_every_pin_has_hashes_and_no_address():
    lines = [line for line in (ROOT / "constraints-hashes.txt").read_text().splitlines() if not line.startswith("#")]
    hashed: dict[str, int] = {}
    for line in lines:
        if pin := re.fullmatch(r"([a-z0-9-]+==\S+) \\", line):
            last = pin[1]
            hashed[last] = 0
        else:
            assert re.fullmatch(r" {4}--hash=sha256:[0-9a-f]{64}( \\)?", line)
            hashed[last] += 1
    pins = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert sorted(hashed) == sorted(pins) and min(hashed.values()) > 0


def asked_for() -> set[str]:
    """The packages that pyproject.toml names, extras included."""
    extras = PROJECT["optional-dependencies"].values()
    asked = [*PROJECT["dependencies"], *(each for extra in extras for each in extra)]
    return {plain(re.split(r"[\[<>=]", each)[0]) for each in asked}


def plain(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def test_every_package_that_is_imported_is_asked_for():
    """What another package happens to bring may be gone with its next version."""
    files = [path for folder in ("research", "configs", "tests") for path in sorted((ROOT / folder).rglob("*.py"))]
    trees = [ast.parse(path.read_text()) for path in files]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {each.name for node in nodes if isinstance(node, ast.Import) for each in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level}
    ours = {"research", "tests", *(path.stem for path in (ROOT / "configs").glob("*.py"))}
    foreign = {name.split(".")[0] for name in names} - sys.stdlib_module_names - ours
    bringers = packages_distributions()
    lacking = {name for name in foreign if not {plain(each) for each in bringers.get(name, [name])} & asked_for()}
    assert lacking - {"datasets"} == set()  # whoever names a data set of the Hugging Face hub installs it


def test_torch_comes_with_the_tests_alone():
    assert not any(re.match("torch|tensorflow$|transformers", each) for each in PROJECT["dependencies"])
    assert "torch==2.13.0" in (ROOT / "constraints.txt").read_text().splitlines()  # its CPU build is at hand in CI


@pytest.fixture
def clone(tmp_path):
    """A repository with the real scripts and one command, which shows its folder and its arguments."""
    folder = tmp_path / "a clone"
    shutil.copytree(ROOT / "launch", folder / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "constraints.txt", folder)
    shutil.copy(ROOT / "pyproject.toml", folder)
    (folder / "research").mkdir()
    (folder / "research" / "__init__.py").touch()
    (folder / "research" / "commands").mkdir()
    listed = 'COMMANDS = {\n    "show": "research.commands.show",\n    "sing": "research.commands.sing",\n}\n'
    (folder / "research" / "commands" / "__init__.py").write_text(listed)
    (folder / "research" / "__main__.py").write_text(
        "import os, sys\n\nprint(os.getcwd(), sys.argv[1:])\nsys.exit(7)\n"
    )
    return folder


class Machine:
    """Stands for venv and pip: records what was asked for, makes `.venv/bin/python`, and can be interrupted."""

    def __init__(self, clone: Path, monkeypatch):
        spec = importlib.util.spec_from_file_location("install", clone / "launch" / "install.py")
        self.module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(self.module)
        self.calls: list[list[str]] = []
        self.during_pip = lambda: 0
        monkeypatch.setattr(self.module, "run", self.run)
        monkeypatch.setattr(self.module, "gpu", lambda: False)

    def run(self, command, **_):
        words = [str(word) for word in command]
        self.calls.append(words)
        if "venv" in words:
            shutil.rmtree(self.module.ROOT / ".venv", ignore_errors=True)
            self.module.PYTHON.parent.mkdir(parents=True)
            self.module.PYTHON.touch()
        return self.during_pip() if "install" in words else 0

    def start(self, *extras: str) -> list[str]:
        """Starts once. Returns what was done: "venv", and for pip the target."""
        self.calls.clear()
        self.module.main(list(extras))
        return ["venv" if "venv" in call else call[-1] for call in self.calls if "--version" not in call]


@pytest.fixture
def machine(clone, monkeypatch):
    return Machine(clone, monkeypatch)


def test_the_first_start_installs_pinned_versions_and_the_second_does_nothing(machine, clone):
    assert machine.start() == ["venv", f"{clone}[{COMMON}]"]
    assert machine.calls[-1][-4:-1] == ["--constraint", str(clone / "constraints.txt"), "--editable"]
    assert machine.start() == []


def test_extras_are_added_once_and_stay(machine, clone):
    machine.start()
    assert machine.start("test") == [f"{clone}[gguf,metrics,parquet,test,tfds]"]
    assert machine.start("test") == machine.start() == []
    assert machine.start("tpu") == [f"{clone}[gguf,metrics,parquet,test,tfds,tpu]"]


@pytest.mark.parametrize("file", ["constraints.txt", "pyproject.toml"])
def test_other_requirements_are_installed_again(machine, clone, file):
    machine.start("test")
    (clone / file).write_text((clone / file).read_text() + "\n# changed\n")
    assert machine.start() == [f"{clone}[gguf,metrics,parquet,test,tfds]"]


def test_a_copied_folder_does_not_use_the_packages_of_the_first(machine, clone, monkeypatch):
    machine.start()
    copy = clone.parent / "copy"
    shutil.copytree(clone, copy)
    assert Machine(copy, monkeypatch).start() == [f"{copy}[{COMMON}]"]


def test_an_interrupted_installation_is_begun_anew(machine, clone):
    def killed():
        raise KeyboardInterrupt

    machine.start("tpu")
    machine.during_pip = killed
    with pytest.raises(KeyboardInterrupt):
        machine.start("test")
    machine.during_pip = lambda: 0
    assert machine.start() == ["venv", f"{clone}[{COMMON},tpu]"]  # although a base was complete before
    assert machine.start() == []


def test_a_failed_installation_is_told_and_begun_anew(machine, clone):
    machine.during_pip = lambda: 1
    with pytest.raises(SystemExit, match="error: the installation failed"):
        machine.start()
    machine.during_pip = lambda: 0
    assert machine.start() == ["venv", f"{clone}[{COMMON}]"]


def test_an_environment_made_by_hand_is_kept(machine, clone):
    machine.module.PYTHON.parent.mkdir(parents=True)
    machine.module.PYTHON.touch()
    assert machine.start() == [f"{clone}[{COMMON}]"]


def stub(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


@pytest.mark.parametrize(
    ("driver", "found"),
    [("echo 580.65.06", True), ("echo 600.1", True), ("echo 535.54", False), ("echo no devices; exit 9", False)],
)
def test_cuda_is_chosen_where_a_driver_answers_that_is_new_enough(clone, tmp_path, monkeypatch, capsys, driver, found):
    machine = Machine(clone, monkeypatch)
    monkeypatch.undo()
    stub(tmp_path / "bin", "nvidia-smi", driver)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}:{os.environ['PATH']}")
    assert machine.module.gpu() is found
    assert ("older than 580" in capsys.readouterr().err) == ("535" in driver)
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.module.gpu() is False


@pytest.fixture
def shell(clone, tmp_path):
    """Runs a script of the clone from another folder; Python is a stub that makes a `.venv` with the real one, which
    must be called by its own name to find its packages."""
    stub(tmp_path / "real", "python", f'exec "{sys.executable}" "$@"')
    install = f"mkdir -p '{clone}/.venv/bin' && cp '{tmp_path}/real/python' '{clone}/.venv/bin/python'"
    stub(tmp_path / "bin", "python3", f'[ "$1" = -c ] || {{ echo "$@" >> "{tmp_path}/installed"; {install}; }}')
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()

    def run(script: str, *arguments: str) -> subprocess.CompletedProcess:
        environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(clone)}
        command = [str(clone / "launch" / script), *arguments]
        return subprocess.run(command, cwd=elsewhere, env=environment, capture_output=True, text=True)

    return run


def test_a_command_runs_where_the_user_stands_with_its_arguments_and_exit_code(shell, clone, tmp_path):
    (tmp_path / "elsewhere" / "research").mkdir()  # a folder of the same name must not be taken for the package
    ended = shell("local.sh", "show", "two words", "--a.b", "*")
    assert ended.stdout == f"{tmp_path / 'elsewhere'} ['show', 'two words', '--a.b', '*']\n"
    assert ended.returncode == 7
    assert (tmp_path / "installed").read_text() == f"{clone}/launch/install.py\n"


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="only where there is no accelerator")
def test_memory_is_kept_between_steps_on_a_cpu_unless_the_user_says_otherwise(shell, clone, monkeypatch):
    script = 'import os\n\nprint(os.environ["GLIBC_TUNABLES"])\n'
    (clone / "research" / "__main__.py").write_text(script)
    monkeypatch.delenv("GLIBC_TUNABLES", raising=False)
    kept = dict(each.split("=") for each in shell("local.sh", "show").stdout.strip().split(":"))
    assert int(kept["glibc.malloc.mmap_threshold"]) == 2**28 and kept["glibc.malloc.arena_max"] == "1"
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.arena_max=3")
    assert shell("local.sh", "show").stdout == "glibc.malloc.arena_max=3\n"


def test_help_and_a_wrong_command_install_nothing(shell, tmp_path):
    for arguments in (["--help"], ["-h"], []):
        shown = shell("local.sh", *arguments)
        assert shown.returncode == 0
        assert "./launch/local.sh COMMAND" in shown.stdout and shown.stdout.endswith("Commands: show, sing\n")
    for command in ("library", "sho", "show\nsing", "--model.width"):
        ended = shell("local.sh", command)
        assert ended.returncode == 2
        assert ended.stderr == f"error: {command} is not one of the commands: show, sing\n"
    assert not (tmp_path / "installed").exists()


def test_three_ways_to_a_command_are_one(tmp_path):
    """`research`, `python -m research` and the script give a mistake, and help, the same answer."""
    shutil.copytree(ROOT / "launch", tmp_path / "launch", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "research").symlink_to(ROOT / "research")
    stub(tmp_path / ".venv", "unused", "")
    stub(tmp_path / ".venv" / "bin", "python", f'exec "{sys.executable}" "$@"')
    stub(tmp_path / "bin", "python3", "")  # everything is installed
    module, name = PROJECT["scripts"]["research"].split(":")
    script = f"import sys, {module}; sys.argv[0] = 'research'; {module}.{name}()"
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    for arguments in (["train", "nowhere.py"], ["train", "configs/quickstart.py", "--sead", "3"], ["nothing"]):
        ways = (
            [sys.executable, "-c", script],
            [sys.executable, "-P", "-m", "research"],
            [tmp_path / "launch" / "local.sh"],
        )
        ended = [
            subprocess.run([*way, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)
            for way in ways
        ]
        assert len({(one.returncode, one.stdout, one.stderr) for one in ended}) == 1, ended
        assert ended[0].returncode == 2 and ended[0].stderr.startswith("error: ")


def test_tests_are_installed_for_and_their_arguments_go_to_pytest(shell, clone, tmp_path):
    (clone / "tests").mkdir()
    (clone / "tests" / "test_one.py").write_text("def test_one():\n    assert False\n\n\ndef test_two():\n    pass\n")
    assert shell("test.sh", "-q", "-k", "two").returncode == 0
    assert shell("test.sh", "tests/test_one.py").returncode == 1
    assert (tmp_path / "installed").read_text().splitlines()[0].endswith("install.py test")


def test_without_a_fitting_python_the_way_to_one_is_told(shell, tmp_path):
    for version in ("", ".11", ".12", ".13"):
        stub(tmp_path / "bin", f"python3{version}", "exit 1")
    ended = shell("local.sh", "show")
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: no Python 3.11, 3.12 or 3.13") and "apt-get install" in ended.stderr
