"""Contract: every metric that a dashboard shows exists, with the labels that it uses; and Prometheus looks where Ray
exports: the file and the ports of cluster/ are those of Ray, of `ray up` and of KubeRay."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from ram_ray.runtime.metrics import EXPORTED, METRICS

CLUSTER = Path(__file__).resolve().parents[2] / "cluster"
DASHBOARDS = ["grafana-recipe.json", "grafana-dashboard.json"]
SUFFIXES = {"counter": ("_total",), "gauge": ("",), "histogram": ("_bucket", "_sum", "_count")}
FUNCTIONS = {"sum", "avg", "max", "rate", "increase", "histogram_quantile", "by", "label_values"}
OF_PROMETHEUS = {"le", "instance"}
METRICS_PORT = "8080"  # of KubeRay, whatever the file says, and of ray-a100.yaml


def dashboard(name: str) -> Any:
    return json.loads((CLUSTER / name).read_text())


def expressions(name: str) -> list[str]:
    """The queries of a dashboard, those of its variables included."""
    tree = dashboard(name)
    variables = [str(variable["query"]) for variable in tree["templating"]["list"] if variable["type"] == "query"]
    return variables + [target["expr"] for panel in tree["panels"] for target in panel.get("targets", [])]


def read(expression: str) -> tuple[set[str], set[str]]:
    """Names of metrics in an expression, and of labels."""
    labels = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
    labels |= set(re.findall(r"(\w+)=~?\"", expression)) | set(re.findall(r"label_values\([^,]*, (\w+)\)", expression))
    plain = re.sub(r"\{[^}]*\}|\[[^]]*\]|\bby \([^)]*\)|label_values\(([^,]*),[^)]*\)", r" \1 ", expression)
    return {word for word in re.findall(r"[a-z_]\w*", plain) if word not in FUNCTIONS}, labels


def known() -> dict[str, set[str]]:
    """Name of each metric, as Prometheus has it -> its labels."""
    from ray.dashboard.modules.reporter.reporter_agent import METRICS_GAUGES
    from ray.data._internal.execution.interfaces.op_runtime_metrics import OpRuntimeMetrics

    from ram_ray.serving.metrics import Metrics

    names: dict[str, set[str]] = {}
    for metric in METRICS:
        for suffix in SUFFIXES[metric.kind]:
            names[metric.exported.removesuffix("_total") + suffix] = {"run", "stage", *metric.labels}
    for value in vars(Metrics()).values():  # of the server
        if hasattr(value, "info"):
            for suffix in SUFFIXES[{"Counter": "counter", "Gauge": "gauge"}.get(type(value).__name__, "histogram")]:
                names[f"ray_{value.info['name']}{suffix}"] = set(value.info["tag_keys"])
    of_data = [metric.name for metric in OpRuntimeMetrics.get_metrics() if metric.metrics_type.name == "Gauge"]
    names |= {f"ray_data_{metric}": {"dataset", "operator"} for metric in of_data}
    return names | {f"ray_{name}": set[str]() for name in METRICS_GAUGES}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_metric_of_a_dashboard_exists_with_its_labels(name: str) -> None:
    exist, found = known(), set[str]()
    for expression in expressions(name):
        metrics, labels = read(expression)
        assert metrics and metrics <= set(exist), f"{expression}: {metrics - set(exist)}"
        for metric in metrics:
            assert labels <= exist[metric] | OF_PROMETHEUS, f"{expression}: {metric} has {exist[metric]}"
        found |= metrics
    if name == "grafana-recipe.json":
        shown = {metric.name for metric in METRICS if any(word.startswith(EXPORTED + metric.name) for word in found)}
        assert shown == {metric.name for metric in METRICS}, "the dashboard shows all of them"


@pytest.mark.parametrize("name", DASHBOARDS)
def test_no_panel_shows_the_sum_of_a_histogram(name: str) -> None:
    """Ray adds the middles of the buckets: 70 batches of one image have the sum 35."""
    assert not [expression for expression in expressions(name) if re.search(r"_sum\b", expression)]


@pytest.mark.parametrize(
    ("expression", "wrong"),
    [
        ("sum by (stage) (rate(ray_ram_ray_stage_row_total[$__rate_interval]))", "ray_ram_ray_stage_row_total"),
        ("ray_ram_ray_stage_rows", "ray_ram_ray_stage_rows"),
        ('sum(ray_ram_ray_stage_rows_total{shard="1"})', "shard"),
        ("sum by (key) (ray_ram_ray_stage_rows_total)", "key"),
    ],
)
def test_a_wrong_name_would_be_seen(expression: str, wrong: str) -> None:
    metrics, labels = read(expression)
    exist = known()
    unknown = (metrics - set(exist)) | {label for metric in metrics & set(exist) for label in labels - exist[metric]}
    assert unknown == {wrong}


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_are_beside_each_other_and_ask_the_chosen_prometheus(name: str) -> None:
    tree = dashboard(name)
    cells = [
        (x, y)
        for panel in tree["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells)) and max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in tree["panels"]}) == len(tree["panels"])
    sources = {panel["datasource"]["uid"] for panel in tree["panels"] if panel["type"] != "row"}
    assert sources == {"${datasource}"}


def test_dashboards_are_two() -> None:
    assert len({dashboard(name)["uid"] for name in DASHBOARDS}) == len(DASHBOARDS)


def test_prometheus_reads_the_file_that_ray_writes() -> None:
    from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

    tree = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())
    (job,) = tree["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]


def test_every_node_of_ray_up_exports_at_the_port_that_the_readme_names() -> None:
    config = yaml.safe_load((CLUSTER / "ray-a100.yaml").read_text())
    for name in ("head_start_ray_commands", "worker_start_ray_commands"):
        assert re.findall(r"--metrics-export-port=(\d+)", config[name][-1]) == [METRICS_PORT]
    assert f"port {METRICS_PORT} (`--metrics-export-port`" in (CLUSTER / "README.md").read_text()


def test_the_monitor_selects_the_pods_and_ports_of_kuberay() -> None:
    monitor = yaml.safe_load((CLUSTER / "kuberay-monitor.yaml").read_text())
    assert (monitor["apiVersion"], monitor["kind"]) == ("monitoring.coreos.com/v1", "PodMonitor")
    assert monitor["spec"]["selector"] == {"matchLabels": {"ray.io/is-ray-node": "yes"}}
    ports = [endpoint["port"] for endpoint in monitor["spec"]["podMetricsEndpoints"]]
    assert ports == ["metrics", "as-metrics", "dash-metrics"]
    assert "namespace" not in monitor["metadata"], "it is applied beside the clusters"
    for name, key in (("kuberay-job.yaml", "rayClusterSpec"), ("kuberay-service.yaml", "rayClusterConfig")):
        cluster = yaml.safe_load((CLUSTER / name).read_text())["spec"][key]
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert group["rayStartParams"].get("metrics-export-port", METRICS_PORT) == METRICS_PORT
            for container in group["template"]["spec"]["containers"]:
                named = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
                assert named.get("metrics", int(METRICS_PORT)) == int(METRICS_PORT)
