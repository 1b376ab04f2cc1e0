"""Manifests for Kubernetes and SkyPilot: what they are for, and that mistakes are told."""

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile

import jsonschema
import kubernetes_validate
import pytest
import yaml

from research.config import config_file
from tests.launch.shared import BUCKET, LAUNCH, ROOT, RUN, TOOLS, stub

spec = importlib.util.spec_from_file_location("manifest", LAUNCH / "gke" / "manifest.py")
manifest = sys.modules["manifest"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(manifest)

JOBSET = {  # of jobset.x-k8s.io/v1alpha2, what is used of it
    "type": "object",
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "jobset.x-k8s.io/v1alpha2"},
        "kind": {"const": "JobSet"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "required": ["replicatedJobs"],
            "properties": {
                "ttlSecondsAfterFinished": {"type": "integer", "minimum": 0},
                "failurePolicy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {
                        "maxRestarts": {"type": "integer", "minimum": 0},
                        "rules": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["name", "action"],
                                "properties": {
                                    "name": {"type": "string"},
                                    "action": {
                                        "enum": ["FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts"]
                                    },
                                    "onJobFailureReasons": {"type": "array", "items": {"type": "string"}},
                                },
                            },
                        },
                    },
                },
                "network": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"enableDNSHostnames": {"type": "boolean"}},
                },
                "replicatedJobs": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["name", "template"],
                        "properties": {
                            "name": {"type": "string"},
                            "replicas": {"type": "integer", "minimum": 1},
                            "template": {"type": "object"},
                        },
                    },
                },
            },
        },
    },
}


def gke(*arguments):
    command = [
        sys.executable,
        LAUNCH / "gke" / "run.py",
        "--name",
        "mine",
        "--image",
        "eu/research:1",
        *BUCKET,
        *arguments,
    ]
    return subprocess.run([*command, "--dry-run", *RUN], capture_output=True, text=True)


@pytest.mark.parametrize(
    ("arguments", "hosts", "chips"),
    [
        (("--tpu", "v5p:4x4x4", "--slices", "2", "--spot"), 16, 4),
        (("--tpu", "v6e:16x16"), 64, 4),
        (("--tpu", "v5e:2x4"), 1, 8),
        (("--tpu", "v4:2x2x1"), 1, 4),
        (("--gpu", "h100", "--nodes", "4"), 4, 8),
        (("--gpu", "h100-mega", "--nodes", "2", "--env", "A=b=c d", "--secret", "keys"), 2, 8),
        (("--gpu", "h200", "--nodes", "2"), 2, 8),
    ],
)
def test_manifests_are_what_kubernetes_and_jobset_take(arguments, hosts, chips):
    shown = gke(*arguments)
    assert shown.returncode == 0, shown.stderr
    jobset = json.loads(shown.stdout)
    jsonschema.validate(jobset, JOBSET)
    (job,) = jobset["spec"]["replicatedJobs"]
    assert job["replicas"] == (2 if "--slices" in arguments else 1)
    wrapped = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": "x"}, **job["template"]}
    kubernetes_validate.validate(wrapped, "1.32", strict=True)
    pod = job["template"]["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert job["template"]["spec"]["parallelism"] == job["template"]["spec"]["completions"] == hosts
    assert set(container["resources"]["limits"].values()) == {chips}
    assert container["args"] == list(RUN)
    assert pod["nodeSelector"].get("cloud.google.com/gke-spot") == ("true" if "--spot" in arguments else None)
    assert "XLA flags: --xla" in shown.stderr
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    assert set(mounts) <= {each["name"] for each in pod["volumes"]} and mounts["memory"] == "/dev/shm"
    environment = {each["name"]: each.get("value") for each in container["env"]}
    assert environment.get("A") == ("b=c d" if "--env" in arguments else None)
    assert container["envFrom"] == ([{"secretRef": {"name": "keys"}}] if "--secret" in arguments else [])
    (volume,) = [each for each in pod["volumes"] if "csi" in each]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "mine" and pod["serviceAccountName"] == "default"
    assert {"name": volume["name"], "mountPath": "/bucket"} in container["volumeMounts"]
    mounted = job["template"]["spec"]["template"]["metadata"]["annotations"]
    assert mounted["gke-gcsfuse/volumes"] == "true"  # or else nothing mounts it
    # on the network of the host, the pod's own account is asked for by name
    assert pod.get("hostNetwork", False) == ("hostNetworkPodKSA" in volume["csi"]["volumeAttributes"])


def test_a_mistake_ends_a_job_and_a_lost_host_starts_it_again():
    """By the exit codes of BUILD.md."""
    spec = manifest.jobset(manifest.Job("mine", "image", "bucket", RUN, tpu="v5e:4x4"))["spec"]
    assert [rule["action"] for rule in spec["failurePolicy"]["rules"]] == ["FailJobSet"]
    assert spec["failurePolicy"]["rules"][0]["onJobFailureReasons"] == ["PodFailurePolicy"]
    job = spec["replicatedJobs"][0]["template"]["spec"]
    disrupted, ended = job["podFailurePolicy"]["rules"]
    assert disrupted["action"] == "Count" and job["backoffLimit"] == 0  # so that JobSet starts all pods again
    assert ended["action"] == "FailJob" and ended["onExitCodes"]["operator"] == "NotIn"
    again = set(ended["onExitCodes"]["values"])
    assert {75, 134, 128 + signal.SIGTERM, 128 + signal.SIGKILL} == again
    stopped = re.search(r"^ *([0-9 |]+)\)$", (LAUNCH / "slurm.sbatch").read_text(), flags=re.M)
    assert {int(code) for code in stopped[1].split("|")} == again  # one rule for Slurm and for Kubernetes


def test_gpus_find_the_driver_and_each_other_past_the_hosts():
    def pod(gpu, nodes=2):
        job = manifest.jobset(manifest.Job("mine", "image", "bucket", RUN, gpu=gpu, nodes=nodes))
        template = job["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
        spec = template["spec"]
        environment = {each["name"]: each.get("value") for each in spec["containers"][0]["env"]}
        return template["metadata"]["annotations"], spec, environment

    for gpu in manifest.GPUS:
        assert pod(gpu)[2]["LD_LIBRARY_PATH"].startswith("/usr/local/nvidia/lib64")
    annotations, _, environment = pod("h200")
    assert len(json.loads(annotations["networking.gke.io/interfaces"])) == 9
    assert environment["LD_LIBRARY_PATH"].endswith(":/usr/local/gib/lib64")
    annotations, spec, environment = pod("h100-mega")
    assert len(yaml.safe_load(annotations["devices.gke.io/container.tcpxo-daemon"])) == 11
    assert [each["name"] for each in spec["initContainers"]] == ["tcpxo-daemon"]
    assert environment["NCCL_PROFILE"] == "/usr/local/nvidia/lib64/nccl-env-profile.sh"
    for alone in (pod("h100"), pod("h200", 1)):
        assert "NCCL_PROFILE" not in alone[2] and "networking.gke.io/interfaces" not in alone[0]


KUBECTL = """
echo "kubectl $@" >> "$CALLS"
case "$1 $2" in
  "create -f") cat > "$CALLS.manifest"; exit "${EXISTS:-0}" ;;
  "get pods") echo "mine-slice-0-0-$(grep -c 'kubectl logs' "$CALLS") Running" ;;
  "get jobset") [[ $(grep -c 'kubectl logs' "$CALLS") -lt 2 ]] || echo "$ENDS" ;;
  logs*) echo "a line of ${!#}" ;;
esac
"""


@pytest.fixture
def cluster(tmp_path):
    """Runs run.py with a kubectl and a gcloud that record what is asked of them; a job of which one pod is lost."""
    path = stub(tmp_path / "bin", "kubectl", KUBECTL)
    stub(path, "gcloud", 'echo "gcloud $@" >> "$CALLS"; cp "$3" "$CALLS.tar.gz"')
    (path / "python3").symlink_to(sys.executable)
    short = (LAUNCH / "gke" / "run.py").read_text().replace("POLL = 10.0", "POLL = 0.0")
    for name in ("launch/gke", "research/runtime"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "launch" / "gke" / "run.py").write_text(short)

    def run(*arguments, **environment):
        (tmp_path / "calls").write_text("")
        variables = {**os.environ, "PATH": f"{path}:/usr/bin:/bin", "CALLS": str(tmp_path / "calls"), **environment}
        command = [sys.executable, tmp_path / "launch" / "gke" / "run.py", "--name", "mine", *arguments]
        ended = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
        return ended, (tmp_path / "calls").read_text().splitlines()

    return run


WHERE = ("--image", "eu/research:1", *BUCKET, "--tpu", "v5e:4x4")


def test_the_first_host_is_followed_from_pod_to_pod(cluster):
    ended, calls = cluster(*WHERE, "--watch", *RUN, ENDS="Completed")
    assert ended.returncode == 0 and calls[0] == "kubectl create -f -", ended.stderr
    assert ended.stdout == "a line of mine-slice-0-0-0\na line of mine-slice-0-0-1\n"
    assert "mine: Completed" in ended.stderr
    ended, calls = cluster("--watch", ENDS="Failed")
    assert ended.returncode == 1 and not any("create" in call for call in calls)


def test_a_job_that_is_there_is_never_changed_and_deleted_only_by_name(cluster):
    ended, calls = cluster(*WHERE, "--watch", *RUN, EXISTS="1")
    assert ended.returncode == 1 and calls == ["kubectl create -f -"] and "--delete ends it" in ended.stderr
    ended, calls = cluster("--delete")
    assert ended.returncode == 0 and calls == ["kubectl delete jobset mine"]


def test_code_goes_through_the_bucket_and_runs_instead_of_the_images(cluster, tmp_path):
    (tmp_path / "research" / "__main__.py").write_text("import sys\n\nprint('the code of the bucket', sys.argv[1:])\n")
    (tmp_path / "research" / "__init__.py").touch()
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "new.py").write_text("that was never committed")
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / ".gitignore").write_text("/calls*\n")
    git = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    (tmp_path / "configs" / "gone.py").touch()
    for words in (
        ["init", "--quiet"],
        ["add", "research", "configs/gone.py"],
        ["commit", "--quiet", "--message", "one"],
    ):
        subprocess.run([*git, *words], check=True)
    (tmp_path / "configs" / "gone.py").unlink()
    ended, calls = cluster(*WHERE, "--code", *RUN)
    assert ended.returncode == 0, ended.stderr
    upload = re.fullmatch(r"gcloud storage cp \S+ gs://mine/(code/mine-[0-9T-]+\.tar\.gz)", calls[0])
    made = json.loads((tmp_path / "calls.manifest").read_text())
    (container,) = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"]
    assert {"name": "RESEARCH_CODE", "value": f"/bucket/{upload[1]}"} in container["env"]
    with tarfile.open(tmp_path / "calls.tar.gz") as archive:
        names = archive.getnames()
    assert {"research/__main__.py", "research/commit.txt", "configs/new.py"} <= set(names)
    (tmp_path / "bin" / "python").symlink_to(sys.executable)
    shown = subprocess.run(
        [LAUNCH / "container.sh", "train", "configs/new.py"],
        env={"PATH": f"{tmp_path}/bin:/usr/bin:/bin", "RESEARCH_CODE": str(tmp_path / "calls.tar.gz")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert shown.stdout == "the code of the bucket ['train', 'configs/new.py']\n", shown.stderr


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tpu", "v5p:4x4"), "has 3 sizes"),
        (("--tpu", "v3:4x4"), "chips are v4, v5e, v5p, v6e"),
        (("--tpu", "v5p:4x4x4", "--name", "My_Run"), "small letters"),
        ((), "--tpu, as in v5p:4x4x4, or --gpu must be given"),
        (("--tpu", "v5e:4x4", "--env", "1=x"), "NAME=VALUE"),
        (("--tpu", "v5e:4x4", "--delete"), "takes no command"),
    ],
)
def test_a_manifest_that_cannot_be_is_told(arguments, told):
    ended = gke(*arguments)
    assert ended.returncode != 0 and told in ended.stderr


def test_the_skypilot_example_has_the_form_of_a_task():
    """Field names and types of SkyPilot's own schema (sky/utils/schemas.py), of what the example uses."""
    resources = {
        "accelerators": {"type": "string"},
        "use_spot": {"type": "boolean"},
        "disk_size": {"type": "integer"},
        "autostop": {
            "type": "object",
            "additionalProperties": False,
            "properties": {"idle_minutes": {"type": "integer"}, "down": {"const": True}},
        },
    }
    text = {"type": "string"}
    properties = {**dict.fromkeys(("name", "workdir", "setup", "run"), text), "num_nodes": {"type": "integer"}}
    mount = {"source": text, "mode": {"enum": ["MOUNT", "COPY", "MOUNT_CACHED"]}}
    mount = {"type": "object", "additionalProperties": False, "properties": mount}
    properties["file_mounts"] = {"type": "object", "additionalProperties": mount}
    properties["envs"] = {"type": "object", "additionalProperties": {"type": ["string", "null"]}}
    properties["resources"] = {"type": "object", "additionalProperties": False, "properties": resources}
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    jsonschema.validate(task, {"type": "object", "additionalProperties": False, "properties": properties})
    for part in ("setup", "run"):
        checked = subprocess.run(
            [TOOLS / "shellcheck", "--shell=bash", "-"], input=task[part], capture_output=True, text=True
        )
        assert checked.returncode == 0, checked.stdout
    _, config, *options = task["envs"]["COMMAND"].split()
    config_file.read(ROOT / config)
    assert options[0] == "--workdir" and options[1].startswith("/bucket/")


def test_the_skypilot_example_is_valid_by_skypilot_itself():
    """Where it is installed (`pip install skypilot`, some hundred packages, into an environment of its own)."""
    schemas = pytest.importorskip("sky.utils.schemas", reason="needs skypilot")
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    jsonschema.validate(task["file_mounts"]["/bucket"], schemas.get_storage_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"nodes": 2}, schemas.get_task_schema())
