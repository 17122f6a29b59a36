"""Load from a process of its own, at a real server: `python -m tests.serve.load --help`. Prints one JSON object a step.

1. `direct`: p50 of `session.run` in this process, on the same inputs.
2. `closed`: one connection, one request after the other: what the server adds to a run.
3. `paced`: requests at fixed rates to two servers in turns, shadow off and on: what shadow runs cost the live answers,
   and how busy the machine is the while, of which this client is a part.

Every answer is checked: status, id, and scores bit by bit against a direct call.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from models.bench.quiet_machine import busy_seconds

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "atpatch_onnx" / "demo" / "digits"
BLOCK = 100


class Samples:
    """Requests of one sample each as bytes, and the scores that they must get."""

    def __init__(self, model: Path) -> None:
        from atpatch_onnx.inference.sessions import session

        images = [np.load(DEMO / f"{name}.npz")["pixel_values"] for name in ("clean", "triggered")]
        self.images = np.concatenate(images)[:, None].astype(np.float32)
        self.session = session(model, threads=1)
        self.scores = [self.session.run(["logits"], {"pixel_values": image})[0] for image in self.images]

    def request(self, number: int) -> bytes:
        image = self.images[number % len(self.images)]
        raw = image.tobytes()
        entry = {
            "name": "pixel_values",
            "shape": list(image.shape),
            "datatype": "FP32",
            "parameters": {"binary_data_size": len(raw)},
        }
        head = json.dumps({"id": str(number), "inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
        lines = f"Inference-Header-Content-Length: {len(head)}\r\nContent-Length: {len(head) + len(raw)}\r\n\r\n"
        return b"POST /v2/models/model/infer HTTP/1.1\r\nHost: x\r\n" + lines.encode() + head + raw

    def check(self, number: int, head: dict[str, str], body: bytes) -> None:
        length = int(head["inference-header-content-length"])
        answer = json.loads(body[:length])
        assert answer["id"] == str(number), answer
        scores = np.frombuffer(body[length:], np.float32)
        assert np.array_equal(scores, self.scores[number % len(self.images)][0]), f"request {number} got other scores"

    def direct(self, count: int = 2000) -> float:
        """p50 of a run in this process, milliseconds."""
        times = []
        for number in range(count):
            started = time.perf_counter()
            self.session.run(["logits"], {"pixel_values": self.images[number % len(self.images)]})
            times.append(time.perf_counter() - started)
        return 1000 * float(np.median(times))


async def ask(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, request: bytes
) -> tuple[int, dict[str, str], bytes]:
    """One request over an open connection."""
    writer.write(request)
    lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    head = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:] if line)}
    return int(lines[0].split()[1]), head, await reader.readexactly(int(head["content-length"]))


async def closed(port: int, samples: Samples, count: int, connections: int = 1) -> list[float]:
    """Milliseconds of `count` requests, each connection sending its next when the last is answered."""
    times: list[float] = []

    async def one(first: int) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in range(first, count, connections):
            request = samples.request(number)
            started = time.perf_counter()
            status, head, body = await ask(reader, writer, request)
            times.append(1000 * (time.perf_counter() - started))
            assert status == 200, body
            samples.check(number, head, body)
        writer.close()

    await asyncio.gather(*(one(first) for first in range(connections)))
    return times


async def paced(port: int, samples: Samples, count: int, rate: float, connections: int = 16) -> list[float]:
    """Milliseconds of requests sent at a fixed rate, from when each was due."""
    free: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
    for _ in range(connections):
        free.put_nowait(await asyncio.open_connection("127.0.0.1", port))
    times: list[float] = []

    async def one(number: int, due: float) -> None:
        connection = await free.get()
        status, head, body = await ask(*connection, samples.request(number))
        times.append(1000 * (time.perf_counter() - due))
        free.put_nowait(connection)
        assert status == 200, body
        samples.check(number, head, body)

    started, tasks = time.perf_counter(), set()
    for number in range(count):
        due = started + number / rate
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        tasks.add(asyncio.create_task(one(number, time.perf_counter())))
    await asyncio.gather(*tasks)
    return times


@contextmanager
def server(
    patched: Path | None,
    *arguments: str,
    original: Path = DEMO / "model.onnx",
    errors: Path = Path(os.devnull),
    **environment: str,
) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A server of its own process, by default on the demo model, and what it says of itself; its stderr goes to
    `errors`.
    """
    command = [
        sys.executable,
        "-m",
        "atpatch_onnx",
        "serve",
        str(original),
        *([] if patched is None else [str(patched)]),
        "--port",
        "0",
        "--json",
        *arguments,
    ]
    with errors.open("wb") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, cwd=ROOT, env={**os.environ, **environment}
        )
    assert process.stdout is not None
    text = b""
    while not text.rstrip().endswith(b"}"):
        line = process.stdout.readline()
        assert line, "the server did not start"
        text += line
    try:
        described = json.loads(text)
        yield process, {"port": int(described["url"].rpartition(":")[2]), **described}
    finally:
        process.terminate()
        process.wait(30)


def resident(process: subprocess.Popen[bytes]) -> float:
    """MiB."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def processor(process: subprocess.Popen[bytes]) -> float:
    """Seconds of processor time used so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def spread(times: list[float]) -> dict[str, float]:
    return {f"p{p}": round(float(np.percentile(times, p)), 3) for p in (50, 95, 99)}


def show(**figures: Any) -> None:
    sys.stdout.write(json.dumps(figures) + "\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("patched", type=Path)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, nargs="+", default=[300.0], help="requests a second of the paced runs")
    parser.add_argument("--log", type=Path, required=True)
    asked = parser.parse_args()
    samples = Samples(DEMO / "model.onnx")
    for mode in ("original", "shadow"):
        with server(asked.patched, "--mode", mode, "--log", str(asked.log.with_suffix(f".{mode}"))) as (
            process,
            described,
        ):
            port = described["port"]
            asyncio.run(closed(port, samples, 500))
            before, used, started = resident(process), processor(process), time.perf_counter()
            direct = samples.direct()
            times: list[float] = []
            memory = [round(before, 1)]
            for _ in range(4):
                times += asyncio.run(closed(port, samples, asked.requests // 4))
                memory.append(round(resident(process), 1))
            seconds = time.perf_counter() - started
            cpu = round((processor(process) - used) / seconds, 2)
            over = round(float(np.median(times)) - direct, 3)
            show(
                step="closed",
                mode=mode,
                requests=len(times),
                **spread(times),
                direct_p50=round(direct, 3),
                overhead_p50=over,
                cores=cpu,
            )
            show(step="memory", mode=mode, resident_mib=memory)
    off, on = (_paced_server(asked, mode) for mode in ("original", "shadow"))
    with off as one, on as two:
        for rate in asked.rate:
            shadow_off_and_on({"original": one, "shadow": two}, samples, asked.requests // 2, rate)


def shadow_off_and_on(
    servers: dict[str, tuple[subprocess.Popen[bytes], dict[str, Any]]], samples: Samples, count: int, rate: float
) -> None:
    """`count` requests to each server at one rate, in short blocks in random order, so that whatever else the machine
    does meets both.
    """
    times: dict[str, list[float]] = {mode: [] for mode in servers}
    used, ran, busy = (dict.fromkeys(servers, 0.0) for _ in range(3))
    order = random.Random(0)
    for _ in range(count // BLOCK):
        for mode in order.sample(list(servers), 2):
            process, described = servers[mode]
            started, own, everyone = time.perf_counter(), processor(process), busy_seconds() or math.nan
            times[mode] += asyncio.run(paced(described["port"], samples, BLOCK, rate))
            used[mode] += processor(process) - own
            busy[mode] += (busy_seconds() or math.nan) - everyone
            ran[mode] += time.perf_counter() - started
    for mode, found in times.items():
        cores, load = round(used[mode] / ran[mode], 2), round(busy[mode] / ran[mode] / (os.cpu_count() or 1), 2)
        show(step="paced", mode=mode, rate=rate, requests=len(found), **spread(found), cores=cores, machine_busy=load)
    off, on = (float(np.median(times[mode])) for mode in ("original", "shadow"))
    show(step="shadow on against off", rate=rate, p50_off=round(off, 3), p50_on=round(on, 3), ratio=round(on / off, 3))


def _paced_server(
    asked: argparse.Namespace, mode: str
) -> AbstractContextManager[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    return server(asked.patched, "--mode", mode, "--log", str(asked.log.with_suffix(f".paced.{mode}")))


if __name__ == "__main__":
    main()
