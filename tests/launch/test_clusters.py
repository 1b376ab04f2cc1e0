"""Launch scripts for GPUs, pods, buckets and Slurm: what they would run, and that they fail early."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from research.commands import COMMANDS
from research.runtime import xla_flags
from tests.launch.shared import BUCKET, LAUNCH, ROOT, RUN, TOOLS, script, stub

POD = ("--name", "pod", "--zone", "us-east5-a")


def test_flags_are_chosen_by_the_accelerator_and_printed(tmp_path):
    assert xla_flags.attached(tmp_path, tmp_path) == "cpu"
    (tmp_path / "nvidia0").touch()
    assert xla_flags.attached(tmp_path, tmp_path) == "gpu"
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "vendor").write_text("0x1ae0\n")
    (tmp_path / "0" / "device").write_text("0x006f\n")
    assert xla_flags.attached(tmp_path, tmp_path) == "v6e"
    given = xla_flags.environment("gpu", {"XLA_FLAGS": "--mine=1"})
    assert given == {"XLA_FLAGS": f"{xla_flags.FLAGS['gpu'][0]} --mine=1"}
    assert set(xla_flags.environment("v5p", {})) == {"LIBTPU_INIT_ARGS"}


def test_several_cpu_devices_of_a_process_have_threads_for_several_collectives_each():
    eight = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    assert xla_flags.environment("cpu", eight) == {**eight, "PJRT_NPROC": "64"}
    assert xla_flags.environment("cpu", {**eight, "PJRT_NPROC": "9"}) == eight
    assert xla_flags.environment("cpu", {}) == {}


def test_gpus_are_chosen_by_number(tmp_path):
    path = stub(tmp_path, "nvidia-smi", "printf '0\\n1\\n2\\n3\\n'")
    for chosen, devices in {(): "0,1,2,3", ("--gpus", "2"): "0,1", ("--gpus", "1,3"): "1,3"}.items():
        shown = script("gpu.sh", *chosen, "--dry-run", "train", "a b.py", path=path)
        assert shown.returncode == 0 and shown.stdout.startswith(f"CUDA_VISIBLE_DEVICES={devices} ")
        assert shown.stdout.rstrip().endswith("launch/local.sh train a\\ b.py")
        assert xla_flags.FLAGS["gpu"][0] in shown.stderr
    for wrong in (("--gpus", "5"), ("--gpus", "0,4"), ("--gpus", "x"), ("--gpu", "1"), ()):
        ended = script("gpu.sh", *wrong, *(["train"] if wrong else []), path=path)
        assert ended.returncode == 2 and ended.stderr.startswith("error: ")
    ended = script("gpu.sh", "train", path=stub(tmp_path, "nvidia-smi", "exit 9"))
    assert ended.returncode == 2 and "./launch/local.sh" in ended.stderr


GCLOUD = """
echo "$@" >> "$CALLS"
case "$*" in
  *describe*labels*) [[ -f $STATE ]] && cat "$STATE.label" ;;
  *describe*) [[ -f $STATE ]] && cat "$STATE" ;;
  *queued-resources\\ create*)
    [[ ! $REFUSED ]] || exit 1
    echo ACTIVE > "$STATE"
    sed 's/.*launched=\\([^ ]*\\).*/\\1/' <<<"$*" > "$STATE.label" ;;
  *queued-resources\\ delete*) rm "$STATE" ;;
  *\\ scp\\ *) tar -xzOf "$5" research/commit.txt > "$CALLS.commit" ;;
  *launch/mount.sh*) exit "$MOUNTS" ;;
  *--worker\\ 0*)
    code=$(head -n 1 "$ENDS") && sed -i 1d "$ENDS"
    [[ $code != preempted ]] || { echo SUSPENDED > "$STATE" && exit 255; }
    exit "$code" ;;
esac
"""


@pytest.fixture
def pod(tmp_path):
    """Runs tpu_pod.sh with a gcloud that records what is asked of it; `ends` is how each following of the log ends."""
    path = stub(tmp_path / "bin", "gcloud", GCLOUD)
    names = {"CALLS": "calls", "STATE": "state", "ENDS": "ends"}
    variables = {variable: str(tmp_path / name) for variable, name in names.items()}

    def run(*arguments, ends=(0,), there=False, mounts=True, refused=False):
        variables["REFUSED"] = "yes" if refused else ""
        variables["MOUNTS"] = "0" if mounts else "2"
        (tmp_path / "calls").write_text("")
        (tmp_path / "ends").write_text("".join(f"{code}\n" for code in ends))
        (tmp_path / "state").unlink(missing_ok=True)
        if there:
            (tmp_path / "state").write_text("ACTIVE\n")
            (tmp_path / "state.label").write_text("\n")
        ended = script("tpu_pod.sh", *POD, *BUCKET, *arguments, path=path, POLL_SECONDS="0", **variables)
        calls = (tmp_path / "calls").read_text().splitlines()
        verbs = [re.search(r"create|delete|scp|ssh", call) for call in calls if call.startswith("compute")]
        return ended, [verb.group() for verb in verbs if verb], (tmp_path / "state").exists()

    return run


def test_a_pod_is_made_used_and_deleted(pod, tmp_path):
    ended, verbs, left = pod("--type", "v5p-128", *RUN)
    assert ended.returncode == 0, ended.stderr
    assert verbs == ["create", "scp", *4 * ["ssh"], "delete"] and not left
    assert xla_flags.FLAGS["v5p"][0] in ended.stderr
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?\n", (tmp_path / "calls.commit").read_text())  # goes with the code


def test_a_failed_command_leaves_no_pod_behind_unless_asked(pod):
    ended, _, left = pod("--type", "v5p-128", *RUN, ends=(7,))
    assert ended.returncode == 7 and not left
    ended, _, left = pod("--type", "v5p-128", "--keep", *RUN, ends=(7,))
    assert ended.returncode == 7 and left


def test_a_preempted_pod_is_made_again_and_a_lost_connection_is_taken_up(pod):
    ended, verbs, left = pod("--type", "v6e-256", "--spot", *RUN, ends=("preempted", 0))
    assert ended.returncode == 0, ended.stderr
    assert verbs.count("create") == verbs.count("delete") == 2 and not left
    ended, verbs, left = pod("--type", "v6e-256", *RUN, ends=(255, 255, 0))
    assert ended.returncode == 0 and verbs.count("create") == 1 and verbs.count("ssh") == 6 and not left


def test_a_pod_that_could_not_be_made_is_told(pod):
    ended, verbs, _ = pod("--type", "v5p-128", *RUN, refused=True)
    assert ended.returncode == 2 and "pod could not be made" in ended.stderr and verbs == ["create"]


def test_a_pod_is_left_followed_and_deleted_by_name(pod):
    ended, verbs, left = pod("--type", "v5p-128", "--detach", *RUN)
    assert ended.returncode == 0 and verbs == ["create", "scp", *3 * ["ssh"]] and left
    for line in (
        "--name pod --zone us-east5-a --follow",
        "--name pod --zone us-east5-a --delete",
        "gs://mine/logs/pod/",
    ):
        assert line in ended.stderr
    ended, verbs, left = pod("--follow", ends=(255, 7), there=True)
    assert ended.returncode == 7 and verbs == ["ssh", "ssh"] and left  # the connection was lost once
    ended, verbs, left = pod("--delete", there=True)
    assert ended.returncode == 0 and verbs == ["delete"] and not left
    for wrong in (("--type", "v5p-8", "--spot", "--detach", *RUN), ("--follow", *RUN), ("--delete", "--follow")):
        ended, verbs, left = pod(*wrong, there=True)
        assert ended.returncode == 2 and ended.stderr.startswith("error: ") and verbs == [] and left


def test_a_pod_that_somebody_else_has_made_meanwhile_stays(pod, tmp_path):
    """As when the network fails after a request, and another start was faster."""
    theirs = 'echo ACTIVE > "$STATE"; echo theirs > "$STATE.label"; exit 1; echo ACTIVE'
    stub(tmp_path / "bin", "gcloud", GCLOUD.replace("echo ACTIVE", theirs))
    ended, verbs, left = pod("--type", "v5p-128", *RUN)
    assert ended.returncode == 2 and verbs == ["create"] and "nothing is deleted" in ended.stderr and left


def test_logs_are_kept_of_every_start_and_copied_while_the_command_runs(tmp_path):
    """Here, and in a folder that stands for the bucket."""
    bucket = tmp_path / "bucket" / "logs"
    for number, code in enumerate((0, 7)):
        command = f"echo start {number}; until grep -qs 'start {number}' {bucket}/*; do sleep .01; done; exit {code}"
        ended = subprocess.run(
            [LAUNCH / "logged.sh", bucket, "bash", "-c", command],
            cwd=tmp_path,
            env={**os.environ, "COPY_SECONDS": "0.05"},
            timeout=60,
        )
        assert ended.returncode == 0 and (tmp_path / "exit_code").read_text() == f"{code}\n"
        assert (tmp_path / "log.txt").read_text() == f"start {number}\n"
        (tmp_path / "log.txt").resolve().rename(tmp_path / "logs" / f"of {number}.txt")  # whatever the clock says
        newest = max(bucket.iterdir(), key=lambda path: path.stat().st_mtime)
        newest.rename(bucket / f"of {number}.txt")
    for folder in (tmp_path / "logs", bucket):
        assert [path.read_text() for path in sorted(folder.iterdir())] == ["start 0\n", "start 1\n"]


def test_a_pod_of_somebody_else_is_never_deleted(pod):
    ended, verbs, left = pod("--existing", *RUN, ends=(3,), there=True)
    assert ended.returncode == 3 and "delete" not in verbs and "create" not in verbs and left
    ended, verbs, left = pod("--type", "v5p-128", *RUN, there=True)
    assert ended.returncode == 2 and "--existing uses it" in ended.stderr and verbs == [] and left
    _, verbs, left = pod("--delete", there=True)
    assert verbs == ["delete"] and not left


@pytest.fixture
def mount(tmp_path):
    """Runs mount.sh with stubs of what it calls, and returns it, the lines that they were called with, and the folder;
    `lacking` are not there, and `failing` fail."""

    def run(*arguments, lacking=(), failing=(), mounted=False):
        calls, folder = tmp_path / "calls", tmp_path / "folder"
        calls.write_text("")
        folder.mkdir(exist_ok=True)
        path = tmp_path / "tools"
        shutil.rmtree(path, ignore_errors=True)
        for name in {"gcsfuse", "fusermount", "sudo"} - set(lacking):
            ends = f"exit {int(name in failing)}"
            stub(path, name, f'echo "{name} $*" >> {calls}; {ends}')
        stub(path, "mountpoint", f"exit {int(not mounted)}")
        ended = script("mount.sh", *arguments, "mine", str(folder), path=path)
        return ended, calls.read_text().splitlines(), folder

    return run


def test_a_bucket_is_mounted_so_that_every_host_sees_what_others_have_written(mount):
    ended, calls, folder = mount()
    assert ended.returncode == 0, ended.stderr
    (call,) = calls
    assert call.startswith("gcsfuse ") and call.endswith(f" mine {folder}")
    assert "--metadata-cache-ttl-secs 0 " in call and "--metadata-cache-negative-ttl-secs 0 " in call


def test_a_mount_that_is_there_is_made_anew(mount):
    ended, calls, folder = mount(mounted=True)
    assert ended.returncode == 0 and calls[0] == f"fusermount -u {folder}" and calls[1].startswith("gcsfuse ")
    ended, calls, _ = mount(mounted=True, failing=["fusermount"])
    assert ended.returncode == 2 and "is mounted already, and in use" in ended.stderr and len(calls) == 1


def test_gcsfuse_is_installed_where_it_is_missing(mount):
    ended, calls, _ = mount("--dry-run", lacking=["gcsfuse"])
    assert ended.returncode == 0 and calls == []
    assert (
        "sudo apt-get install --quiet --yes gcsfuse \n" in ended.stdout and "\ngcsfuse --implicit-dirs" in ended.stdout
    )
    ended, calls, _ = mount(lacking=["gcsfuse"], failing=["sudo"])
    assert ended.returncode == 2 and "gcsfuse could not be installed" in ended.stderr and len(calls) == 1


def test_a_bucket_that_cannot_be_mounted_stops_the_command_before_it_starts(mount, pod):
    ended, *_ = mount(failing=["gcsfuse"])
    assert ended.returncode == 2 and "the bucket mine could not be mounted" in ended.stderr
    ended = script("mount.sh", "gs://mine")
    assert ended.returncode == 2 and "which bucket?" in ended.stderr
    ended, verbs, left = pod("--type", "v5p-128", *RUN, mounts=False)
    assert ended.returncode == 2 and verbs == ["create", "scp", "ssh", "ssh", "delete"] and not left


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((*RUN,), "--type"),
        (("--type", "v3-8", *RUN), "v4-N, v5litepod-N, v5p-N or v6e-N"),
        (("--type", "v5p-8", "train", "configs/llama_8b.py"), "--workdir /bucket/"),
        (("--type", "v5p-8", "train", "configs/llama_8b.py", "--workdir", "gs://b/run"), "--workdir /bucket/"),
        (("--type", "v5p-8", "--bucket", "", *RUN), "--bucket is needed"),
        (("--type", "v5p-8"), "which command?"),
        (("--existing", "--spot", *RUN), "--existing"),
    ],
)
def test_a_pod_that_cannot_run_is_not_made(pod, arguments, told):
    ended, verbs, _ = pod(*arguments)
    assert ended.returncode == 2 and ended.stderr.startswith("error: ") and told in ended.stderr and verbs == []


def test_gcloud_knows_every_option(tmp_path):
    """Asked of the real one, where it is installed; it runs nothing."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        pytest.skip("needs gcloud")
    shown = [
        script(
            "tpu_pod.sh",
            *POD,
            *BUCKET,
            "--project",
            "p",
            "--type",
            kind,
            "--spot",
            "--dry-run",
            "train",
            "--workdir",
            "/bucket/r",
        )
        for kind in ("v4-8", "v5litepod-16", "v5p-128", "v6e-256")
    ]
    lines = {line for each in shown for line in each.stdout.splitlines() if " ssh " not in line}
    lines |= {"gcloud compute tpus queued-resources describe pod --zone z --format value(state.state)"}
    lines |= {"gcloud compute tpus tpu-vm ssh pod --zone z --project p --worker all --command true"}
    assert len(lines) >= 7
    commands = tmp_path / "commands.json"
    wrong = "gcloud compute tpus queued-resources describe pod --zone z --no-such-option"
    commands.write_text(json.dumps([{"command_string": line.strip()} for line in (wrong, *sorted(lines))]))
    asked = [gcloud, "meta", "lint-gcloud-commands", f"--commands-file={commands}"]
    answer = subprocess.run(asked, capture_output=True, text=True, timeout=300)
    verdicts = json.loads(answer.stdout)
    assert [each["success"] for each in verdicts] == [False] + len(lines) * [True]


def test_the_dockerfile_is_clean_and_copies_what_there_is():
    file = LAUNCH / "Dockerfile"
    checked = subprocess.run([TOOLS / "hadolint", file], capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout
    for line in re.findall(r"^COPY (.*) \S+$", file.read_text(), flags=re.M):
        for name in line.split():
            assert (ROOT / name).exists()
            assert f"!{name}" in (ROOT / ".dockerignore").read_text().splitlines()


def test_slurm_shows_what_it_would_run_and_refuses_what_it_could_not():
    training = ("train", "configs/quickstart.py", "--workdir", "/shared/run")
    shown = script("slurm.sbatch", "--dry-run", *training, SLURM_SUBMIT_DIR=str(ROOT))
    assert shown.returncode == 0, shown.stderr
    assert f"-m research {' '.join(training)}" in shown.stdout
    for wrong, told in {(): "which command?", ("train", "a.py"): "--workdir"}.items():
        ended = script("slurm.sbatch", *wrong)
        assert ended.returncode == 2 and told in ended.stderr
    assert "sbatch" in script("slurm.sbatch", "evaluate").stderr


def test_a_dry_run_on_a_login_node_asks_slurm_and_checks_the_command(tmp_path):
    """With an environment that has been made, and a Slurm that records what it is asked."""
    for name in ("launch", "research", "configs"):
        (tmp_path / name).symlink_to(ROOT / name)
    stub(tmp_path / ".venv", "unused", "")
    stub(tmp_path / ".venv" / "bin", "python", f'exec "{sys.executable}" "$@"')
    path = stub(tmp_path / "bin", "sbatch", f'echo "$@" > {tmp_path}/asked; [[ "$*" != *--nodes=900* ]]')
    where = {"path": path, "SLURM_SUBMIT_DIR": str(tmp_path), "PYTHONPATH": str(ROOT)}
    training = ("train", str(ROOT / "configs/quickstart.py"), "--workdir", "/shared/run")
    shown = script("slurm.sbatch", "--dry-run", "--nodes=4", *training, **where)
    assert shown.returncode == 0, shown.stderr
    assert "--requeue" in shown.stdout and "--nodes=4" in shown.stdout and "srun " in shown.stdout
    asked = (tmp_path / "asked").read_text()
    assert asked.startswith("--test-only --nodes=4 ") and asked.rstrip().endswith(" ".join(training))
    ended = script("slurm.sbatch", "--dry-run", *training, "--data.lenght", "3", **where)
    assert ended.returncode == 2 and "error: there is no option --data.lenght" in ended.stderr
    ended = script("slurm.sbatch", "--dry-run", "--nodes=900", *training, **where)
    assert ended.returncode == 2 and "Slurm would not take this job" in ended.stderr


def test_an_array_runs_each_command_of_a_sweep(tmp_path):
    """The job of number N the N-th, with its quotes."""
    sweep = tmp_path / "commands.txt"
    lines = [f"./launch/local.sh train a.py --workdir runs/{n} --data.source 'text:it s {n}'" for n in (1, 2)]
    sweep.write_text("# two runs\n" + "\n".join(lines) + "\n")
    for name in ("research", "launch"):
        (tmp_path / name).mkdir()
    (tmp_path / "launch" / "local.sh").touch()
    (tmp_path / "launch" / "environment.sh").write_text("prepare() { :; }\n")
    (tmp_path / "research" / "runtime").symlink_to(ROOT / "research" / "runtime")
    path = stub(tmp_path / "bin", "srun", 'printf "%s\n" "$@"')
    where = {"path": path, "SLURM_SUBMIT_DIR": str(tmp_path), "SLURM_JOB_ID": "7"}
    ended = script("slurm.sbatch", "--sweep", str(sweep), **where, SLURM_ARRAY_TASK_ID="2")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[-5:] == ["a.py", "--workdir", "runs/2", "--data.source", "text:it s 2"]
    for number, told in {
        "3": "has 2 commands, and no number 3",
        "": "--sweep needs an array: sbatch --array=1-2",
    }.items():
        ended = script("slurm.sbatch", "--sweep", str(sweep), **where, SLURM_ARRAY_TASK_ID=number)
        assert ended.returncode != 0 and told in ended.stderr
    shown = script("slurm.sbatch", "--dry-run", "--sweep", str(sweep), path=path, SLURM_SUBMIT_DIR=str(tmp_path))
    assert shown.returncode == 0 and "--array=1-2" in shown.stdout and shown.stdout.count("-m research train a.py") == 2


def test_local_commands_are_those_that_scripts_name():
    named = re.findall(
        r"(?:sh|sbatch)(?: --\S+ \S+)* (train|plan|evaluate|generate)",
        "".join(path.read_text() for path in LAUNCH.iterdir() if path.is_file()),
    )
    assert named and set(named) <= set(COMMANDS)
