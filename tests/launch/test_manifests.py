"""Manifests for Kubernetes and SkyPilot: what they are for, and that mistakes are told."""

import subprocess
import sys

import jsonschema
import kubernetes_validate
import pytest
import yaml

from research.config import config_file
from tests.launch.shared import BUCKET, LAUNCH, ROOT, RUN, TOOLS

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
                    "properties": {"maxRestarts": {"type": "integer", "minimum": 0}},
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
    ],
)
def test_manifests_are_what_kubernetes_and_jobset_take(arguments, hosts, chips):
    shown = gke(*arguments)
    assert shown.returncode == 0, shown.stderr
    jobset = yaml.safe_load(shown.stdout)
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
    (volume,) = [each for each in pod["volumes"] if "csi" in each]
    assert volume["csi"]["volumeAttributes"]["bucketName"] == "mine" and pod["serviceAccountName"] == "default"
    assert {"name": volume["name"], "mountPath": "/bucket"} in container["volumeMounts"]
    mounted = job["template"]["spec"]["template"]["metadata"]["annotations"]
    assert mounted["gke-gcsfuse/volumes"] == "true"  # or else nothing mounts it
    # on the network of the host, the pod's own account is asked for by name
    assert pod.get("hostNetwork", False) == ("hostNetworkPodKSA" in volume["csi"]["volumeAttributes"])


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--tpu", "v5p:4x4"), "has 3 sizes"),
        (("--tpu", "v3:4x4"), "chips are v4, v5e, v5p, v6e"),
        (("--tpu", "v5p:4x4x4", "--name", "My_Run"), "small letters"),
        ((), "required"),
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
    config_file.read(ROOT / task["envs"]["CONFIG"])


def test_the_skypilot_example_is_valid_by_skypilot_itself():
    """Where it is installed (`pip install skypilot`, some hundred packages, into an environment of its own)."""
    schemas = pytest.importorskip("sky.utils.schemas", reason="needs skypilot")
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    jsonschema.validate(task, schemas.get_task_schema())
    jsonschema.validate(task["resources"], schemas.get_resources_schema())
    jsonschema.validate(task["file_mounts"]["/bucket"], schemas.get_storage_schema())
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(task | {"nodes": 2}, schemas.get_task_schema())
