"""The HTTP API on Ray Serve."""

CALLBACK = "ram_ray.serving.connections.middlewares"  # called by each process of Serve that listens for HTTP
