"""Contract: `/metrics` is the sum of the nodes: our metrics alone, each with one header, in Prometheus' text format."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from ram_ray.serving.metrics import exported_lines

EXPORT = """# HELP ray_ram_ray_images_total Tagged images
# TYPE ray_ram_ray_images_total counter
ray_ram_ray_images_total{NODE,model="m"} 3.0
# HELP ray_node_mem Memory
ray_node_mem 5
# HELP ray_ram_ray_batch_images Images of a batch
# TYPE ray_ram_ray_batch_images histogram
ray_ram_ray_batch_images_bucket{NODE,le="1.0"} 2.0
ray_ram_ray_batch_images_count{NODE} 2.0
"""


@pytest.fixture
def nodes() -> Iterator[list[str]]:
    """URLs of two nodes' exports."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = EXPORT.replace("NODE", f'node="{self.path[1:]}"').encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *args: object) -> None:
            """Nothing is printed."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield [f"http://127.0.0.1:{server.server_port}/{name}" for name in ("a", "b")]
    server.shutdown()
    server.server_close()


def test_our_metrics_of_all_nodes(nodes: list[str]) -> None:
    lines = exported_lines([*nodes, "http://127.0.0.1:1/gone"])
    assert [line for line in lines if "ray_node" in line] == []
    assert sum(line.startswith("# TYPE ray_ram_ray_images_total") for line in lines) == 1
    assert {line for line in lines if line.startswith("ray_ram_ray_images_total")} == {
        f'ray_ram_ray_images_total{{node="{name}",model="m"}} 3.0' for name in "ab"
    }
    first_sample = next(index for index, line in enumerate(lines) if line.startswith("ray_ram_ray_batch_images_"))
    assert lines[first_sample - 1].startswith("# TYPE ray_ram_ray_batch_images ")
