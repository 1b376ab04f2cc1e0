"""A JobSet for Google Kubernetes Engine as plain data: one job a slice of TPUs, or one for all nodes of GPUs, and one
pod a host.

Exit codes decide what follows (BUILD.md lists them). After those of AGAIN, which a lost or stopped process leaves, and
where Kubernetes itself disrupts a pod, all pods are started again, and the run resumes from its last checkpoint. After
any other, as 2 for a mistake, the JobSet has failed: it would fail again, and cost as much.
"""

import math
import re
from dataclasses import dataclass
from typing import Any

TPUS = {  # chip -> its node selector, sizes of a topology, chips of a host in a slice of several hosts
    "v4": ("tpu-v4-podslice", 3, 4),
    "v5e": ("tpu-v5-lite-podslice", 2, 4),
    "v5p": ("tpu-v5p-slice", 3, 4),
    "v6e": ("tpu-v6e-slice", 2, 4),
}
# eight in a node; machine types a3-highgpu-8g, a3-megagpu-8g and a3-ultragpu-8g
GPUS = {"h100": "nvidia-h100-80gb", "h100-mega": "nvidia-h100-mega-80gb", "h200": "nvidia-h200-141gb"}
AGAIN = (75, 134, 137, 143)  # another process is gone (two ways to end), SIGKILL, SIGTERM
KEPT = 3 * 24 * 3600  # seconds for which kubectl still has the logs of a job that has ended
GRACE = 300  # seconds to save in after SIGTERM
NVIDIA = "/usr/local/nvidia"  # where GKE puts the driver's programs and libraries
# of the container that keeps the network's memory for GPUDirect-TCPXO, as of Google's installer of August 2025
TCPXO = "us-docker.pkg.dev/gce-ai-infra/gpudirect-tcpxo/tcpgpudmarxd-dev:v1.0.18"

Object = dict[str, Any]


class Mistake(Exception):
    """What cannot be rendered, with what could be."""


@dataclass(frozen=True)
class Job:
    """What runs where."""

    name: str
    image: str
    bucket: str
    command: tuple[str, ...]
    tpu: str = ""  # CHIP:TOPOLOGY
    gpu: str = ""  # of GPUS
    slices: int = 1
    nodes: int = 1
    spot: bool = False
    account: str = "default"
    env: tuple[tuple[str, str], ...] = ()
    secrets: tuple[str, ...] = ()  # of Kubernetes, whose entries become variables of the environment
    code: str = ""  # archive in the bucket, below /bucket, that replaces the code of the image


def jobset(job: Job) -> Object:
    """Raises Mistake."""
    annotations = {"alpha.jobset.sigs.k8s.io/exclusive-topology": "cloud.google.com/gke-nodepool"} if job.tpu else {}
    return {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": job.name, "annotations": annotations},
        "spec": {
            "ttlSecondsAfterFinished": KEPT,
            "failurePolicy": {
                "maxRestarts": 100,
                "rules": [{"name": "mistake", "action": "FailJobSet", "onJobFailureReasons": ["PodFailurePolicy"]}],
            },
            "network": {"enableDNSHostnames": True},
            "replicatedJobs": [_slices(job) if job.tpu else _nodes(job)],
        },
    }


def _slices(job: Job) -> Object:
    """GKE tells the pods of a slice of each other, and slices of each other."""
    chip, _, topology = job.tpu.partition(":")
    if chip not in TPUS or not re.fullmatch(r"\d+(x\d+)+", topology):
        raise Mistake(f"--tpu {job.tpu}: should be like v5p:4x4x4 or v6e:16x16; chips are {', '.join(TPUS)}")
    selector, dimensions, hosted = TPUS[chip]
    sizes = [int(size) for size in topology.split("x")]
    if len(sizes) != dimensions:
        raise Mistake(f"--tpu {job.tpu}: a topology of {chip} has {dimensions} sizes")
    chips = math.prod(sizes)
    alone = chips <= hosted or topology == "2x4"  # all chips in one host
    count = chips if alone else hosted
    spec = _pod_spec(job, {"google.com/tpu": count}, [], None)
    spec |= {"hostNetwork": True, "dnsPolicy": "ClusterFirstWithHostNet"}
    spec["nodeSelector"] |= {
        "cloud.google.com/gke-tpu-accelerator": selector,
        "cloud.google.com/gke-tpu-topology": topology,
    }
    (container,) = spec["containers"]
    container |= {
        "ports": [{"containerPort": 8471}, {"containerPort": 8080}],
        "securityContext": {"privileged": True},
    }
    return _replicated("slice", job.slices, 1 if alone else chips // hosted, spec, {})


def _nodes(job: Job) -> Object:
    """The first pod brings the others together; each drives the eight GPUs of its node."""
    index = "metadata.annotations['batch.kubernetes.io/job-completion-index']"
    env = [
        {"name": "JAX_COORDINATOR_ADDRESS", "value": f"{job.name}-node-0-0.{job.name}:1234"},
        {"name": "JAX_NUM_PROCESSES", "value": str(job.nodes)},
        {"name": "JAX_PROCESS_ID", "valueFrom": {"fieldRef": {"fieldPath": index}}},
    ]
    direct = _direct(job.gpu) if job.nodes > 1 else None
    spec = _pod_spec(job, {"nvidia.com/gpu": 8}, env, direct)
    spec["nodeSelector"]["cloud.google.com/gke-accelerator"] = GPUS[job.gpu]
    spec["tolerations"] = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    return _replicated("node", 1, job.nodes, spec, direct["annotations"] if direct else {})


def _direct(gpu: str) -> Object | None:
    """How GPUs of different nodes reach each other past the hosts' memory, where a machine type has it in a form that
    needs no other NCCL than JAX's own: as Google's pages "Maximize GPU network bandwidth" and "GPUDirect RDMA" have it,
    with the names that they give to networks."""
    if gpu == "h200":  # RDMA
        networks = {"eth0": "default", **{f"eth{2 + n}": f"rdma-{n}" for n in range(8)}}
        return {
            "annotations": _interfaces(networks),
            "libraries": "/usr/local/gib/lib64",
            "profile": "/usr/local/gib/scripts/set_nccl_env.sh",
            "mounts": [{"name": "gib", "mountPath": "/usr/local/gib"}],
            "volumes": [_host("gib", "/home/kubernetes/bin/gib")],
            "env": [],
            "beside": [],
        }
    if gpu != "h100-mega":  # a3-highgpu's TCPX is a build of NCCL of its own
        return None
    devices = [f"nvidia{n}" for n in range(8)] + ["nvidiactl", "nvidia-uvm", "dmabuf_import_helper"]
    injected = {"devices.gke.io/container.tcpxo-daemon": "".join(f"- path: /dev/{name}\n" for name in devices)}
    start = "chmod 755 /fts/entrypoint_rxdm_container.sh && /fts/entrypoint_rxdm_container.sh --num_hops=2 --num_nics=8"
    daemon = {
        "name": "tcpxo-daemon",
        "image": TCPXO,
        "restartPolicy": "Always",  # with an init container: beside the others, and ended with them
        "command": ["/bin/sh", "-c", start],
        "securityContext": {"capabilities": {"add": ["NET_ADMIN", "NET_BIND_SERVICE"]}},
        "env": [{"name": "LD_LIBRARY_PATH", "value": f"{NVIDIA}/lib64"}],
        "volumeMounts": [
            {"name": "nvidia", "mountPath": NVIDIA},
            {"name": "sys", "mountPath": "/hostsysfs"},
            {"name": "proc-sys", "mountPath": "/hostprocsysfs"},
        ],
    }
    return {
        "annotations": injected | _interfaces({"eth0": "default", **{f"eth{n}": f"vpc{n}" for n in range(1, 9)}}),
        "libraries": "",
        "profile": f"{NVIDIA}/lib64/nccl-env-profile.sh",
        "mounts": [{"name": "aperture", "mountPath": "/dev/aperture_devices"}],
        "volumes": [
            _host("nvidia", "/home/kubernetes/bin/nvidia"),
            _host("sys", "/sys"),
            _host("proc-sys", "/proc/sys"),
            _host("aperture", "/dev/aperture_devices"),
        ],
        "env": [{"name": "NCCL_FASTRAK_LLCM_DEVICE_DIRECTORY", "value": "/dev/aperture_devices"}],
        "beside": [daemon],
    }


def _interfaces(networks: dict[str, str]) -> dict[str, str]:
    listed = ", ".join(f'{{"interfaceName": "{name}", "network": "{to}"}}' for name, to in networks.items())
    return {"networking.gke.io/default-interface": "eth0", "networking.gke.io/interfaces": f"[{listed}]"}


def _host(name: str, path: str) -> Object:
    return {"name": name, "hostPath": {"path": path}}


def _pod_spec(job: Job, resources: dict[str, int], env: list[Object], direct: Object | None) -> Object:
    if job.gpu:
        libraries = [f"{NVIDIA}/lib64", *([direct["libraries"]] if direct and direct["libraries"] else [])]
        env = [*env, {"name": "LD_LIBRARY_PATH", "value": ":".join(libraries)}]
    if direct:
        env = [*env, {"name": "NCCL_PROFILE", "value": direct["profile"]}, *direct["env"]]
    if job.code:
        env = [*env, {"name": "RESEARCH_CODE", "value": job.code}]
    container = {
        "name": "research",
        "image": job.image,
        "args": [word.replace("$(", "$$(") for word in job.command],  # as Kubernetes quotes
        "env": [*env, *({"name": name, "value": value} for name, value in job.env)],
        "envFrom": [{"secretRef": {"name": name}} for name in job.secrets],
        "resources": {"requests": resources, "limits": resources},
        "volumeMounts": [
            {"name": "memory", "mountPath": "/dev/shm"},
            {"name": "bucket", "mountPath": "/bucket"},
            *(direct["mounts"] if direct else []),
        ],
    }
    bucket = {
        "bucketName": job.bucket,
        # what is known of files is not kept, so that each pod sees at once what another has written
        "mountOptions": "implicit-dirs,metadata-cache:ttl-secs:0,metadata-cache:negative-ttl-secs:0",
    }
    if job.tpu:  # on the network of the host, the pod's own account is asked for by name
        bucket["hostNetworkPodKSA"] = "true"
    return {
        "serviceAccountName": job.account,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": GRACE,
        "nodeSelector": {"cloud.google.com/gke-spot": "true"} if job.spot else {},
        "initContainers": direct["beside"] if direct else [],
        "containers": [container],
        "volumes": [
            {"name": "memory", "emptyDir": {"medium": "Memory"}},
            {"name": "bucket", "csi": {"driver": "gcsfuse.csi.storage.gke.io", "volumeAttributes": bucket}},
            *(direct["volumes"] if direct else []),
        ],
    }


def _replicated(name: str, replicas: int, pods: int, spec: Object, annotations: dict[str, str]) -> Object:
    fuse = {f"gke-gcsfuse/{each}": "0" for each in ("cpu-limit", "memory-limit", "ephemeral-storage-limit")}  # no limit
    rules: list[Object] = [
        {"action": "Count", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        {
            "action": "FailJob",
            "onExitCodes": {"containerName": "research", "operator": "NotIn", "values": list(AGAIN)},
        },
    ]
    return {
        "name": name,
        "replicas": replicas,
        "template": {
            "spec": {
                "parallelism": pods,
                "completions": pods,
                "completionMode": "Indexed",
                "backoffLimit": 0,
                "podFailurePolicy": {"rules": rules},
                "template": {
                    "metadata": {"annotations": {"gke-gcsfuse/volumes": "true", **fuse, **annotations}},
                    "spec": spec,
                },
            }
        },
    }
