"""The files for clusters, held against Ray's and Kubernetes's validators, shellcheck and our own
parser.
"""

import copy
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonpatch
import kubernetes_validate
import pytest
import yaml
from conftest import ROOT

from cluster.placement import places
from experiments import settings
from experiments.__main__ import parse
from experiments.verbs import common
from rl_unlearn.config import Config

FILES = ROOT / "cluster"
KUBERNETES = "1.33"
TEXTS = [path for path in sorted(FILES.rglob("*")) if path.suffix in {".md", ".yaml", ".sh"}]
RAY = re.search(r"^ray==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M).group(1)  # type: ignore[union-attr]
SECRET_WORDS = re.compile(r"(password|secret|token|key)\s*[:=]\s*['\"]?[A-Za-z0-9+/]{16,}", re.I)


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((FILES / name).read_text()))


def raycluster() -> dict[str, Any]:
    (found,) = documents("kubernetes/raycluster.yaml")
    return found


def rayjob() -> dict[str, Any]:
    (found,) = documents("kubernetes/rayjob.yaml")
    return found


# -- Every command in these files ------------------------------------------------------------------


def commands(path: Path) -> Iterator[list[str]]:
    """The arguments of each `python -m experiments` in a file, comments and continued lines
    included.
    """
    return (words for _, words in told(path))


def told(path: Path) -> Iterator[tuple[str, list[str]]]:
    """The same, each with what stands before it on its line."""
    text = re.sub(r"^# ?", "", path.read_text(), flags=re.M)
    text = (
        re.sub(r"\\\n\s*", "", text)
        if path.suffix != ".yaml"
        else re.sub(r"(\\|>-)\n\s*", "", text)
    )
    for line in text.splitlines():
        for before, command in re.findall(r"^(.*)python -m experiments ([a-z][^`\n]*)", line):
            if "..." not in command:
                words = shlex.split(command, comments=True)
                yield before, [word for word in words if word not in ("$@", "&")]


def resolved(words: list[str]) -> Config:
    """The configuration that a command runs with; the image's /app is the checkout."""
    args = parse(words)
    files = [str(ROOT / file.removeprefix("/app/")) for file in args.config]
    return settings.load(files, args.overrides + common.cluster_overrides(args), environ={})


def test_every_command_parses_with_the_real_parser_and_configuration() -> None:
    found = {str(path.relative_to(FILES)): list(commands(path)) for path in TEXTS}
    assert len(found["README.md"]) >= 5
    for name in ("kubernetes/raycluster.yaml", "kubernetes/rayjob.yaml", "ray-up.yaml", "slurm.sh"):
        assert found[name], name
    for words in (words for several in found.values() for words in several):
        assert words[0] == "train"
        resolved(words)
    with pytest.raises(Exception, match=r"unknown key 'rollout\.actor'"):
        resolved(["train", "rollout.actor=2"])


def test_what_runs_on_a_cluster_writes_to_a_place_that_outlives_it() -> None:
    remote = [shlex.split(rayjob()["spec"]["entrypoint"])[3:]]
    for path in TEXTS:
        found = [
            words for before, words in told(path) if "--submit" in words or "job submit" in before
        ]
        assert found or path.name not in ("README.md", "ray-up.yaml", "raycluster.yaml"), path
        remote += found
    for words in remote:
        assert resolved(words).output.startswith(("/shared/", "$PWD/")), words


@pytest.mark.parametrize(
    "name", ["kubernetes/raycluster.yaml", "kubernetes/rayjob.yaml", "ray-up.yaml"]
)
def test_the_actors_fit_into_the_pools(name: str) -> None:
    (content,) = documents(name)
    spec = content.get("spec", content)
    spec = spec.get("rayClusterSpec", spec)
    if name == "ray-up.yaml":
        kinds = spec["available_node_types"].values()
        pools = [
            (node["min_workers"], node["resources"], node["labels"])
            for node in kinds
            if node["max_workers"]
        ]
    else:
        pools = [
            (group["replicas"], quantities(group), group["labels"])
            for group in spec["workerGroupSpecs"]
        ]
    room = [(dict(resources), labels) for count, resources, labels in pools for _ in range(count)]
    entrypoint = content.get("spec", {}).get("entrypoint")
    config = resolved(
        shlex.split(entrypoint)[3:] if entrypoint else next(iter(commands(FILES / name)))
    )
    assert config.rollout.actors == 2
    for place in sorted(places(config).all, key=lambda place: -place.resources.get("GPU", 0)):
        fitting = [
            free for free, labels in room
            if labels.items() >= place.labels.items()
            and all(free.get(kind, 0) >= amount - 1e-9 for kind, amount in place.resources.items())
        ]  # fmt: skip
        assert fitting, (place, room)
        taken = min(fitting, key=lambda free: free.get("GPU", 0))
        for kind, amount in place.resources.items():
            taken[kind] -= amount
    assert sum(free.get("GPU", 0) for free, _ in room) == pytest.approx(0), (
        "no GPU is paid for and not used"
    )


def quantities(group: dict[str, Any]) -> dict[str, float]:
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    return {"CPU": float(limits["cpu"]), "GPU": float(limits.get("nvidia.com/gpu", 0))}


# -- Kubernetes ------------------------------------------------------------------------------------

# KubeRay's schema is in no package: these are all fields that the files use, with the types of
# KubeRay 1.6.
CLUSTER = {"rayVersion": str, "authOptions": dict, "headGroupSpec": dict, "workerGroupSpecs": list}
HEAD = {"serviceType": str, "rayStartParams": dict, "resources": dict, "template": dict}
GROUP = {"groupName": str, "replicas": int, "minReplicas": int, "maxReplicas": int, "labels": dict,
         "rayStartParams": dict, "template": dict}  # fmt: skip
JOB = {"submissionMode": str, "entrypoint": str, "backoffLimit": int,
       "shutdownAfterJobFinishes": bool,
       "ttlSecondsAfterFinished": int, "rayClusterSpec": dict}  # fmt: skip


def check_fields(content: dict[str, Any], fields: dict[str, type]) -> None:
    assert set(content) == set(fields)
    for name, kind in fields.items():
        assert type(content[name]) is kind, name


def check_strings(content: dict[str, Any]) -> None:
    assert all(isinstance(value, str) for value in content.values()), "KubeRay wants strings here"


def check_pod(template: dict[str, Any]) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "PodTemplate",
        "metadata": {"name": "x"},
        "template": template,
    }
    kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def check_cluster(spec: dict[str, Any]) -> None:
    check_fields(spec, CLUSTER)
    assert spec["rayVersion"] == RAY, "the image's Ray"
    assert set(spec["authOptions"]) == {"mode", "secretName"}
    head, groups = spec["headGroupSpec"], spec["workerGroupSpecs"]
    check_fields(head, HEAD)
    for group in groups:
        check_fields(group, GROUP)
        assert re.fullmatch(r"[a-z][a-z0-9-]*", group["groupName"])
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        check_strings(group["labels"])
    assert len({group["groupName"] for group in groups}) == len(groups)
    for group in (head, *groups):
        check_strings(group["rayStartParams"])
        check_strings(group.get("resources", {}))
        assert not {"labels", "num-cpus", "num-gpus"} & set(group["rayStartParams"]), (
            "KubeRay has fields for these"
        )
        check_pod(group["template"])


def check_kuberay(content: dict[str, Any]) -> None:
    assert set(content) == {"apiVersion", "kind", "metadata", "spec"}
    assert content["apiVersion"] == "ray.io/v1"
    assert re.fullmatch(r"[a-z]([a-z0-9-]{0,45}[a-z0-9])?", content["metadata"]["name"])
    if content["kind"] == "RayJob":
        check_fields(content["spec"], JOB)
        assert content["spec"]["submissionMode"] in {
            "K8sJobMode",
            "HTTPMode",
            "InteractiveMode",
            "SidecarMode",
        }
        check_cluster(content["spec"]["rayClusterSpec"])
    else:
        assert content["kind"] == "RayCluster"
        check_cluster(content["spec"])


def test_the_kuberay_files_are_valid_and_of_one_cluster() -> None:
    check_kuberay(raycluster())
    check_kuberay(rayjob())
    assert rayjob()["spec"]["rayClusterSpec"] == raycluster()["spec"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("spec", "headGroupSpecs"), {}),
        (("spec", "rayVersion"), "2.59.0"),
        (("spec", "workerGroupSpecs", 0, "replicas"), "2"),
        (("spec", "workerGroupSpecs", 0, "rayStartParams"), {"labels": "pool=rollout"}),
        (("spec", "headGroupSpec", "resources"), {"CPU": 0}),
        (("spec", "headGroupSpec", "template", "spec", "automountServiceAcountToken"), False),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "resources", "limit"), {}),
        (("spec", "headGroupSpec", "template", "spec", "containers", 0, "env", 0, "value"), 60),
    ],
)
def test_these_checks_find_mistakes(path: tuple[Any, ...], value: Any) -> None:
    content = copy.deepcopy(raycluster())
    *parents, last = path
    place: Any = content
    for step in parents:
        place = place[step]
    place[last] = value
    with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
        check_kuberay(content)


# -- Overlays --------------------------------------------------------------------------------------

OVERLAYS = sorted(path.parent.name for path in FILES.glob("kubernetes/overlays/*/*zation.yaml"))


def built(name: str) -> dict[str, dict[str, Any]]:
    """What `kubectl apply -k` applies of an overlay, by kind."""
    folder = FILES / "kubernetes" / "overlays" / name
    (asked,) = yaml.safe_load_all((folder / "kustomization.yaml").read_text())
    assert asked.keys() == {"apiVersion", "kind", "resources", "patches"}
    content = []
    for resource in asked["resources"]:
        path = (folder / resource).resolve()
        (base,) = yaml.safe_load_all((path / "kustomization.yaml").read_text()) if path.is_dir() \
            else ({"resources": [path]},)  # fmt: skip
        assert base.keys() <= {"apiVersion", "kind", "resources"}
        for file in base["resources"]:
            content += yaml.safe_load_all((path / file).read_text())
    for patch in asked["patches"]:
        wanted = patch["target"]
        matching = [
            part for part in content
            if part["kind"] == wanted["kind"] and part["metadata"]["name"] == wanted["name"]
            and part["apiVersion"] == f"{wanted['group']}/{wanted['version']}"
        ]  # fmt: skip
        assert len(matching) == 1, wanted
        content.remove(matching[0])
        content.append(jsonpatch.apply_patch(matching[0], yaml.safe_load(patch["patch"])))
    kinds = {part["kind"]: part for part in content}
    assert len(kinds) == len(content)
    return kinds


def test_there_is_an_overlay_for_each() -> None:
    assert OVERLAYS == ["autoscaling", "kueue", "monitoring", "spot"]
    readme = (FILES / "README.md").read_text()
    assert all(f"kubernetes/overlays/{name}" in readme for name in OVERLAYS)


@pytest.mark.parametrize("name", OVERLAYS)
def test_an_overlay_leaves_a_valid_cluster(name: str) -> None:
    kinds = built(name)
    kubernetes_validate.validate(kinds["NetworkPolicy"], KUBERNETES, strict=True)
    spec = kinds["RayCluster"]["spec"]
    optional = {"enableInTreeAutoscaling": bool, "autoscalerOptions": dict, "suspend": bool}
    more = {key: spec.pop(key) for key in optional if key in spec}
    check_fields(more, {key: optional[key] for key in more})
    check_cluster(spec)


def test_the_autoscaler_may_ask_for_what_a_run_asks_for() -> None:
    spec = built("autoscaling")["RayCluster"]["spec"]
    group = spec["workerGroupSpecs"][0]
    words = next(iter(commands(FILES / "kubernetes/overlays/autoscaling/kustomization.yaml")))
    rollout = resolved(words).rollout
    assert (rollout.actors_min, rollout.actors) == (group["minReplicas"], group["maxReplicas"])
    assert spec["headGroupSpec"]["template"]["spec"]["automountServiceAccountToken"] is True
    fixed = [other["minReplicas"] == other["maxReplicas"] for other in spec["workerGroupSpecs"][1:]]
    assert all(fixed)


def test_only_rollouts_are_on_machines_that_may_be_taken_back() -> None:
    rollout, *others = built("spot")["RayCluster"]["spec"]["workerGroupSpecs"]
    assert rollout["template"]["spec"]["tolerations"]
    assert not any("nodeSelector" in other["template"]["spec"] for other in others)


def test_prometheus_may_reach_what_it_is_told_to_scrape() -> None:
    kinds = built("monitoring")
    monitor, policy = kinds["PodMonitor"]["spec"], kinds["NetworkPolicy"]["spec"]
    assert monitor["selector"] == {"matchLabels": {"app": "rl-unlearn"}}
    assert policy["podSelector"] == monitor["selector"]
    assert policy["ingress"][-1]["ports"] == [{"protocol": "TCP", "port": 8080}]
    assert len(policy["ingress"]) == 3


def test_a_queue_begins_what_is_suspended() -> None:
    cluster = built("kueue")["RayCluster"]
    assert cluster["metadata"]["labels"] == {"kueue.x-k8s.io/queue-name": "rl-unlearn"}
    assert cluster["spec"]["suspend"] is True


def test_what_the_pods_share_is_valid_and_named_as_they_name_it() -> None:
    claim, policy = documents("kubernetes/shared.yaml")
    for content in (claim, policy):
        kubernetes_validate.validate(content, KUBERNETES, strict=True)
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    spec = raycluster()["spec"]
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        template = group["template"]
        assert (
            template["metadata"]["labels"].items()
            >= policy["spec"]["podSelector"]["matchLabels"].items()
        )
        (volume,) = template["spec"]["volumes"]
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
        assert template["spec"]["containers"][0]["volumeMounts"] == [
            {"name": volume["name"], "mountPath": "/shared"}
        ]


def test_pods_ask_for_a_token_and_may_do_little() -> None:
    _, policy = documents("kubernetes/shared.yaml")
    assert policy["spec"]["policyTypes"] == ["Ingress"]
    assert all(rule["from"] for rule in policy["spec"]["ingress"]), (
        "a rule without `from` lets in everybody"
    )
    spec = raycluster()["spec"]
    assert spec["authOptions"] == {"mode": "token", "secretName": "rl-unlearn-token"}
    assert (
        "create secret generic rl-unlearn-token --from-file=auth_token"
        in (FILES / "README.md").read_text()
    )
    assert spec["headGroupSpec"]["serviceType"] == "ClusterIP"
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        pod = group["template"]["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
            }
            assert container["resources"]["limits"] == container["resources"]["requests"]


# -- Virtual machines, SLURM, the image ------------------------------------------------------------


def test_rays_own_validator_takes_the_machines() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    (config,) = documents("ray-up.yaml")
    validate_config(prepare_config(copy.deepcopy(config)))
    with pytest.raises(Exception, match="max_worker"):
        validate_config(prepare_config({**copy.deepcopy(config), "max_worker": 3}))
    kinds = config["available_node_types"]
    assert config["max_workers"] == sum(kind["max_workers"] for kind in kinds.values())
    assert {name: kind.get("labels") for name, kind in kinds.items()} == {
        "head": None, "rollout": {"pool": "rollout"}, "learner": {"pool": "learner"},
        "cpu": {"pool": "cpu"},
    }  # fmt: skip


def test_the_machines_are_private_and_ask_for_a_token() -> None:
    (config,) = documents("ray-up.yaml")
    assert config["provider"]["use_internal_ips"] is True
    for rule in config["provider"]["security_group"]["IpPermissions"]:
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
        assert all(r["CidrIp"].startswith(("10.", "172.16.", "192.168.")) for r in rule["IpRanges"])
    assert "--env RAY_AUTH_MODE=token" in config["docker"]["run_options"]
    assert "~/.ray/auth_token" in config["file_mounts"]
    (start,) = [line for line in config["head_start_ray_commands"] if "ray start" in line]
    assert "--dashboard-host=127.0.0.1" in start


def test_the_batch_script_is_sound_shell() -> None:
    script = str(FILES / "slurm.sh")
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).parent / "shellcheck"
    found = subprocess.run([shellcheck, "--severity=style", script], capture_output=True, text=True)
    assert found.returncode == 0, found.stdout
    bad = subprocess.run(
        [shellcheck, "--shell=bash", "-"], input="cd $x\n", capture_output=True, text=True
    )
    assert bad.returncode == 1, "shellcheck really looks"


def test_ray_takes_the_batch_scripts_options_on_all_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.scripts.scripts import start
    from ray.scripts.symmetric_run import curate_and_validate_ray_start_args

    text = re.sub(r"\\\n\s*", "", (FILES / "slurm.sh").read_text())
    (line,) = re.findall(r"ray symmetric-run (.*?) -- (?:.*)", text)
    words = [
        word.replace("$SLURM_CPUS_PER_TASK", "8").replace("$SLURM_JOB_NUM_NODES", "3")
        for word in shlex.split(line)
    ]
    options = curate_and_validate_ray_start_args(words)
    given = start.make_context("start", list(options)).params
    assert given["num_cpus"] == 8
    assert given["include_dashboard"] is None, "workers refuse what only a head may be told"
    assert given["dashboard_host"] in (None, "localhost", "127.0.0.1")
    script = (FILES / "slurm.sh").read_text()
    assert "export RAY_AUTH_MODE=token" in script
    assert "--resume auto" in script


def instructions() -> list[tuple[str, str]]:
    text = re.sub(r"\\\n\s*", "", (FILES / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    return [(line.split(None, 1)[0], line.split(None, 1)[1]) for line in lines]


def test_the_image_is_pinned_and_runs_without_root() -> None:
    steps = instructions()
    assert [name for name, _ in steps if name in ("USER", "CMD")] == ["USER", "CMD"]
    assert dict(steps)["USER"] == "unlearn"
    installs = [
        part
        for name, text in steps
        if name == "RUN"
        for part in re.findall(r"pip install [^;&]*", text)
    ]
    assert len(installs) == 2
    assert all("--constraint constraints.txt" in part for part in installs)
    names = {text.partition("=")[0] for name, text in steps if name == "ARG"}
    assert names == {"PYTHON", "TORCH_INDEX"}, "no secret is handed over at build time"


def test_all_that_the_image_copies_is_there_and_reaches_the_builder() -> None:
    ignore = (FILES / "Dockerfile.dockerignore").read_text().splitlines()
    rules = [line for line in ignore if line and not line.startswith("#")]
    assert rules[0] == "*"
    for name, text in instructions():
        if name == "COPY":
            for source in text.split()[:-1]:
                assert (ROOT / source).exists()
                assert f"!{source}" in rules
    assert not [rule for rule in rules if rule.startswith("!") and not (ROOT / rule[1:]).exists()]


def test_no_file_holds_a_secret() -> None:
    for path in (*TEXTS, FILES / "Dockerfile"):
        assert not SECRET_WORDS.search(path.read_text()), path
    assert SECRET_WORDS.search('auth_token: "0123456789abcdef0123"')
