"""Contract: what `ray-a100.yaml` names exists once `aws-access.yaml` is deployed, and the machines suit the work.

The two files are run through Ray's own AWS provider and CloudFormation's model in moto: roles, instance profiles and
security group are made from the template, `ray up`'s bootstrap reads them, and one machine of each type is started.
What no simulation knows is a rule over the file; every rule is also shown a file that breaks it.
"""

from __future__ import annotations

import copy
import re
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
CLUSTER = ROOT / "cluster"
DRIVERS = {12: 525, 13: 580}  # CUDA's major version: the oldest driver that runs it (CUDA release notes, table 3)
EC2_CALLS = {  # of the head: ray/autoscaler/_private/aws/node_provider.py
    *("DescribeInstances", "DescribeInstanceTypes", "DescribeImages", "DescribeSubnets", "DescribeSecurityGroups"),
    *("RunInstances", "CreateTags", "StartInstances", "StopInstances", "TerminateInstances"),
}


class Template(yaml.SafeLoader):
    """YAML with CloudFormation's short tags, kept as text."""


for tag in ("!Ref", "!Sub", "!GetAtt"):
    Template.add_constructor(tag, lambda loader, node: loader.construct_scalar(node))


@pytest.fixture
def config() -> Any:
    """`ray-a100.yaml`, to be read or broken."""
    return yaml.safe_load((CLUSTER / "ray-a100.yaml").read_text())


@pytest.fixture
def access() -> Any:
    """The resources of `aws-access.yaml`."""
    return yaml.load((CLUSTER / "aws-access.yaml").read_text(), Template)["Resources"]


def cuda_of_torch() -> int:
    """Major version of the CUDA that the pinned torch brings."""
    match = re.search(r"^cuda-toolkit==(\d+)\.", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert match, "constraints.txt does not pin cuda-toolkit"
    return int(match[1])


def problems(config: dict[str, Any]) -> list[str]:
    """What would go wrong with a `ray up` file, a line each."""
    violations = []
    nodes = config["available_node_types"]
    head = nodes[config["head_node_type"]]
    options = config["docker"]["run_options"]
    setup = " ".join(config["initialization_commands"])
    starts = [config["head_start_ray_commands"][-1], config["worker_start_ray_commands"][-1]]
    spill = {match[1] for line in starts if (match := re.search(r"--object-spilling-directory=(\S+)", line))}
    if "," in config["provider"]["availability_zone"]:
        violations.append("more than one zone: traffic between the workers of a training is slow and is paid for")
    if not config["provider"].get("security_group", {}).get("GroupName"):
        violations.append("no security group: Ray makes one with SSH open to the internet")
    if any("IamInstanceProfile" not in node["node_config"] for node in nodes.values()):
        violations.append("a machine without an instance profile cannot read the data, and the head can start no other")
    elif (
        sum(
            node["node_config"]["IamInstanceProfile"] == head["node_config"]["IamInstanceProfile"]
            for node in nodes.values()
        )
        > 1
    ):
        violations.append("a worker has the head's profile, which may start machines")
    registry = config["docker"]["image"].partition("/")[0]
    if ".ecr." in registry and not re.search(rf"docker login [^;]*{re.escape(registry)}", setup):
        violations.append("the image cannot be pulled: no docker login to its registry")
    driver = re.search(r"driver_version[^;]*-ge (\d+)", setup)
    if not driver or int(driver[1]) < DRIVERS[cuda_of_torch()]:
        violations.append("no check that the driver can run torch's CUDA")
    volumes = {match[1] for option in options if (match := re.search(r"^--volume \S+:(\S+)$", option))}
    if len(spill) != 1 or not any(
        path == volume or path.startswith(f"{volume}/") for path in spill for volume in volumes
    ):
        violations.append("objects are not spilled to a folder of the machine's own disks")
    if "/opt/dlami/nvme" not in setup:
        violations.append("the NVMe disks are not used")
    if any("--shm-size" in option for option in options):
        violations.append("one size of shared memory for machines of different memory")
    environment = dict(option.removeprefix("--env ").split("=", 1) for option in options if option.startswith("--env "))
    token = environment.get("RAY_AUTH_TOKEN_PATH", "")
    if environment.get("RAY_AUTH_MODE") != "token" or not config["file_mounts"].get(token, "").startswith("~/"):
        violations.append("no token: whoever reaches the head's ports runs code")
    if "--dashboard-host=127.0.0.1" not in starts[0]:
        violations.append("the dashboard listens beyond the head")
    return violations


def test_the_file_breaks_no_rule(config: dict[str, Any]) -> None:
    assert problems(config) == []


def without(options: list[str], mark: str) -> None:
    options[:] = [option for option in options if mark not in option]


BREAK: dict[str, Callable[[Any], Any]] = {
    "more than one zone": lambda c: c["provider"].update(availability_zone="us-east-1a,us-east-1b"),
    "no security group": lambda c: c["provider"].pop("security_group"),
    "without an instance profile": lambda c: c["available_node_types"]["head"]["node_config"].pop("IamInstanceProfile"),
    "the head's profile": lambda c: c["available_node_types"]["decode"]["node_config"].update(
        IamInstanceProfile={"Name": "ram-ray-head"}
    ),
    "no docker login": lambda c: without(c["initialization_commands"], "docker login"),
    "driver": lambda c: c["initialization_commands"].__setitem__(1, "test $(nvidia-smi driver_version) -ge 550"),
    "not spilled": lambda c: without(c["docker"]["run_options"], "--volume"),
    "NVMe": lambda c: without(c["initialization_commands"], "nvme"),
    "shared memory": lambda c: c["docker"]["run_options"].append("--shm-size=200gb"),
    "no token": lambda c: c["file_mounts"].pop("/home/ray/token/auth_token"),
    "dashboard": lambda c: c.update(
        head_start_ray_commands=[line.replace("127.0.0.1", "0.0.0.0") for line in c["head_start_ray_commands"]]
    ),
}


@pytest.mark.parametrize("name", BREAK)
def test_a_broken_file_is_seen(config: dict[str, Any], name: str) -> None:
    broken = copy.deepcopy(config)
    BREAK[name](broken)
    assert any(name in problem for problem in problems(broken))


@pytest.mark.parametrize(("driver", "status"), [("570.195.03", 1), ("580.95.05", 0), ("595.91.07", 0), (None, 0)])
def test_a_machine_with_an_old_driver_stops_before_its_container(
    config: dict[str, Any], tmp_path: Path, driver: str | None, status: int
) -> None:
    (command,) = [line for line in config["initialization_commands"] if "driver_version" in line]
    if driver:  # a machine with a GPU
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\necho {driver}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)
    completed = subprocess.run(
        ["bash", "-c", command],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (completed.returncode, "older than 580" in completed.stdout) == (status, status == 1)


def test_the_commands_are_shell(config: dict[str, Any]) -> None:
    names = ("initialization_commands", "setup_commands", "head_start_ray_commands", "worker_start_ray_commands")
    for line in [line for name in names for line in config[name]]:
        completed = subprocess.run(["bash", "-n", "-c", line], capture_output=True, text=True, timeout=60)
        assert completed.returncode == 0, f"{line}: {completed.stderr}"


def statements(access: dict[str, Any]) -> list[dict[str, Any]]:
    """What the head's role allows."""
    return access["HeadRole"]["Properties"]["Policies"][0]["PolicyDocument"]["Statement"]


def actions(statement: dict[str, Any]) -> list[str]:
    value = statement["Action"]
    return [value] if isinstance(value, str) else value


def test_the_head_may_start_machines_and_pass_the_worker_s_role_and_no_other(access: dict[str, Any]) -> None:
    allowed = {action for statement in statements(access) for action in actions(statement)}
    assert {f"ec2:{call}" for call in EC2_CALLS} <= allowed
    passing = [statement for statement in statements(access) if "iam:PassRole" in actions(statement)]
    assert [statement["Resource"] for statement in passing] == ["WorkerRole.Arn"]
    assert not any(action.startswith(("iam:", "ec2:")) and action.endswith("*") for action in allowed)


def test_every_machine_may_read_the_data_and_pull_the_image(access: dict[str, Any]) -> None:
    registry = "arn:aws:iam::aws:policy/AmazonEC2ContainerRegistryReadOnly"
    for role in ("HeadRole", "WorkerRole"):
        assert access[role]["Properties"]["ManagedPolicyArns"] == ["Data", registry]
    allowed = access["Data"]["Properties"]["PolicyDocument"]["Statement"]
    assert {"s3:ListBucket", "s3:GetObject", "s3:PutObject", "s3:DeleteObject"} <= {
        action for statement in allowed for action in actions(statement)
    }


def test_the_template_has_no_aliases_which_cloudformation_does_not_read() -> None:
    tokens = yaml.scan((CLUSTER / "aws-access.yaml").read_text())
    assert not [token for token in tokens if isinstance(token, yaml.AliasToken | yaml.AnchorToken)]


def test_ray_s_provider_calls_nothing_else_of_ec2() -> None:
    import ray.autoscaler._private.aws.node_provider as provider

    source = Path(provider.__file__).read_text()
    calls = set(re.findall(r"\b(?:ec2|ec2_fail_fast|client)\.(\w+_(?:instances|instance_types|images|tags))\(", source))
    camel = {"".join(part.title() for part in call.split("_")) for call in calls}
    camel = {"RunInstances" if call == "CreateInstances" else call for call in camel}
    assert camel and camel <= EC2_CALLS


@pytest.fixture
def aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """An account of AWS's in moto with the stack of `aws-access.yaml`; gives a maker of boto3 clients."""
    import boto3
    from moto import mock_aws

    for name in ("ACCESS_KEY_ID", "SECRET_ACCESS_KEY"):
        monkeypatch.setenv(f"AWS_{name}", "testing")
    monkeypatch.delenv("AWS_PROFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray writes an SSH key
    with mock_aws():

        def client(name: str) -> Any:
            return boto3.client(name, region_name="us-east-1")

        (network,) = client("ec2").describe_vpcs()["Vpcs"]
        values = {"Bucket": "data", "VpcId": network["VpcId"], "SshFrom": "203.0.113.7/32"}
        client("cloudformation").create_stack(
            StackName="ram-ray",
            TemplateBody=(CLUSTER / "aws-access.yaml").read_text(),
            Parameters=[{"ParameterKey": name, "ParameterValue": value} for name, value in values.items()],
            Capabilities=["CAPABILITY_NAMED_IAM"],
        )
        yield client


def test_ray_up_finds_what_the_template_makes(aws: Any, config: dict[str, Any]) -> None:
    from ray.autoscaler._private.aws.config import bootstrap_aws
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider
    from ray.autoscaler._private.aws.utils import resource_cache
    from ray.autoscaler._private.util import prepare_config

    resource_cache.cache_clear()
    filled = bootstrap_aws(prepare_config(config))
    security_groups = aws("ec2").describe_security_groups()["SecurityGroups"]
    (group,) = [group for group in security_groups if group["GroupName"] == "ram-ray"]
    sources = [block["CidrIp"] for rule in group["IpPermissions"] for block in rule.get("IpRanges", [])]
    assert sources == ["203.0.113.7/32"], "the internet can reach the cluster"
    assert any(
        pair["GroupId"] == group["GroupId"] for rule in group["IpPermissions"] for pair in rule["UserIdGroupPairs"]
    )
    roles = {}
    for profile in aws("iam").list_instance_profiles()["InstanceProfiles"]:
        roles[profile["InstanceProfileName"]] = [role["RoleName"] for role in profile["Roles"]]
    provider = AWSNodeProvider(filled["provider"], filled["cluster_name"])
    for name, node in filled["available_node_types"].items():
        assert node["node_config"]["SecurityGroupIds"] == [group["GroupId"]]
        (subnet,) = aws("ec2").describe_subnets(SubnetIds=node["node_config"]["SubnetIds"])["Subnets"]
        assert subnet["AvailabilityZone"] == config["provider"]["availability_zone"]
        profile = node["node_config"]["IamInstanceProfile"]["Name"]
        assert roles[profile] == [profile]
        started = provider.create_node({**node["node_config"], "ImageId": "ami-12c6146b"}, {"ray-node-name": name}, 1)
        (instance,) = started.values()
        assert instance.iam_instance_profile["Arn"].endswith(f"/{profile}")
