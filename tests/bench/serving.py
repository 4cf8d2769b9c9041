"""What HTTP costs, as ratios in one run: images per CPU second over HTTP against those of `Predictor` in this process.

    python tests/bench/serving.py --model BUNDLE --images FOLDER_OF_JPEGS
    python tests/bench/serving.py --model BUNDLE --images FOLDER --set serve.replicas=2 --seconds 10

Both sides take turns, `--rounds` times, so that a busy machine is busy for both; a figure is the best round's. CPU
seconds of the server are those of all its processes, Ray's own included; the client is this process and is not
counted. Then: how long `/healthz` takes, and how much longer one image takes beside 8 clients of 16 images than alone.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import json
import random
import statistics
import time
from pathlib import Path

import aiohttp
import psutil

from ram_ray.config import load
from ram_ray.inference.predictor import Predictor
from ram_ray.runtime import cluster
from ram_ray.runtime.own_cluster import free_port
from ram_ray.serving import CALLBACK
from ram_ray.settings.serving import ServeConfig


def main() -> None:
    """Measure and print a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--images", required=True, type=Path)
    parser.add_argument("--set", action="append", default=[], dest="sets")
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--clients", type=int, default=32)
    options = parser.parse_args()
    config = load(files=(), sets=(f"serve.port={free_port()}", *options.sets)).serve
    contents = [path.read_bytes() for path in sorted(options.images.glob("*.jpg"))[:200]]
    cluster.start(num_cpus=8, http_callback=CALLBACK)
    from ram_ray.serving import app
    from ram_ray.serving.replicas import choose_backend

    url = app.deploy(options.model, config)
    backend, precision = choose_backend(config, use_gpu=False)
    predictor = Predictor.from_pretrained(
        options.model, device="cpu", backend=backend, precision=precision, threads=config.threads
    )
    best: dict[str, float] = {}
    for _ in range(options.rounds):
        record(best, "in process, 16 images", in_process(predictor, contents, seconds=options.seconds / 2))
        for num_images in (1, 16):
            clients = options.clients if num_images < 16 else max(1, min(options.clients, config.max_queued // 16))
            name = f"HTTP, {num_images} images a request"
            record(best, name, over_http(url, contents, num_images, clients=clients, seconds=options.seconds))
    base = best["in process, 16 images"]
    result: dict[str, object] = {"backend": backend, "precision": precision}
    result |= {name: round(value, 1) for name, value in best.items()}
    result["ratios"] = {name: round(value / base, 3) for name, value in best.items() if name.startswith("HTTP")}
    result["healthz ms, p50"] = round(1000 * asyncio.run(health(url, seconds=2)), 2)
    alone, beside = asyncio.run(fairness(url, contents, config, seconds=options.seconds))
    result |= {"one image alone, ms": round(1000 * alone, 1), "beside 8 x 16, ms": round(1000 * beside, 1)}
    result["beside / alone"] = round(beside / alone, 2)
    print(json.dumps(result, indent=1))
    app.shutdown(everything=True)
    cluster.stop()


def record(best: dict[str, float], name: str, value: float) -> None:
    """Keep the best value of a name."""
    best[name] = max(best.get(name, 0), value)


def in_process(predictor: Predictor, contents: list[bytes], *, seconds: float) -> float:
    """Images per CPU second of this process, files of 16 images at a time."""
    batch = (contents * 16)[:16]
    predictor.tag(batch)
    started, num_images = time.process_time(), 0
    while time.process_time() - started < seconds:
        predictor.tag(batch)
        num_images += len(batch)
    return num_images / (time.process_time() - started)


def over_http(url: str, contents: list[bytes], num_images: int, *, clients: int, seconds: float) -> float:
    """Images per CPU second of the server's processes."""
    asyncio.run(load_of(url, contents, num_images, clients=clients, seconds=1))
    before = server_cpu()
    done = asyncio.run(load_of(url, contents, num_images, clients=clients, seconds=seconds))
    return done / (server_cpu() - before)


def server_cpu() -> float:
    """CPU seconds of all processes that this one has started."""
    total = 0.0
    for process in psutil.Process().children(recursive=True):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def body_of(contents: list[bytes], num_images: int) -> bytes:
    """A request as JSON."""
    images = [{"content": base64.b64encode(random.choice(contents)).decode()} for _ in range(num_images)]
    return json.dumps({"images": images}).encode()


async def load_of(url: str, contents: list[bytes], num_images: int, *, clients: int, seconds: float) -> int:
    """Images that keep-alive clients get tagged."""
    bodies = [body_of(contents, num_images) for _ in range(20)]
    end, done = time.monotonic() + seconds, 0

    async def client(session: aiohttp.ClientSession) -> None:
        nonlocal done
        while time.monotonic() < end:
            if await post(session, url, random.choice(bodies)) == 200:
                done += num_images
            else:
                await asyncio.sleep(0.1)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        await asyncio.gather(*(client(session) for _ in range(clients)))
    return done


async def post(session: aiohttp.ClientSession, url: str, body: bytes) -> int:
    """Status of a request."""
    async with session.post(f"{url}/v1/tag", data=body, headers={"Content-Type": "application/json"}) as answer:
        await answer.read()
        return answer.status


async def health(url: str, *, seconds: float) -> float:
    """Median seconds of `/healthz`."""
    times, end = [], time.monotonic() + seconds
    async with aiohttp.ClientSession() as session:
        while time.monotonic() < end:
            started = time.perf_counter()
            async with session.get(f"{url}/healthz") as answer:
                await answer.read()
            times.append(time.perf_counter() - started)
    return statistics.median(times)


async def fairness(url: str, contents: list[bytes], config: ServeConfig, *, seconds: float) -> tuple[float, float]:
    """Median seconds of one image: alone, and beside 8 clients of as many images as a request may have."""
    body = body_of(contents, 1)

    async def times_of(session: aiohttp.ClientSession, end: float) -> float:
        times = []
        while time.monotonic() < end:
            started = time.perf_counter()
            if await post(session, url, body) == 200:
                times.append(time.perf_counter() - started)
            await asyncio.sleep(0.02)
        return statistics.median(times)

    async with aiohttp.ClientSession() as session:
        alone = await times_of(session, time.monotonic() + seconds / 2)
        others = asyncio.create_task(load_of(url, contents, config.max_images, clients=8, seconds=seconds + 1))
        await asyncio.sleep(1)
        beside = await times_of(session, time.monotonic() + seconds)
        await others
    return alone, beside


if __name__ == "__main__":
    main()
