"""Latency of `/retrieve` of a service that pays every request's full price: no cache, no rate limit."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

QUERIES = ("people outdoors", "a person at a desk", "an empty place", "a group of friends", "somebody with glasses")


def measure_retrieval(
    pictures: Sequence[Path], artifacts: Path, directory: Path, requests: int, top_k: int
) -> tuple[NDArray[np.float64], int]:
    """Ingest pictures, serve them from another process and ask for them one request after the other.

    Args:
        pictures: Pictures of the corpus.
        artifacts: Root of the artifact store.
        directory: Where the corpus is kept while it is served; it is removed afterwards.
        requests: Number of requests after the first, which warms up.
        top_k: Pictures asked for by each request.

    Returns:
        Wall seconds of each request (requests,), and how many pictures they returned together.
    """
    store = directory / "store"
    shutil.rmtree(store, ignore_errors=True)
    photos = directory / "photos"
    photos.mkdir()
    rows = ["file,caption"]
    for index, path in enumerate(pictures):
        shutil.copy(path, photos / path.name)
        rows.append(f"{path.name},{QUERIES[index % len(QUERIES)]}")
    captions = photos / "captions.csv"
    captions.write_text("\n".join(rows) + "\n", encoding="utf-8")
    program = str(Path(sys.executable).with_name("doppel"))
    common = ["--data", str(store), "--artifacts", str(artifacts)]
    subprocess.run(
        [program, "ingest", str(photos), "--captions", str(captions), *common], check=True, stdout=sys.stderr
    )
    with _served(program, store, artifacts) as url:
        latencies, hits = [], 0
        for index in range(requests + 1):
            body = {"query": {"text": QUERIES[index % len(QUERIES)]}, "top_k": top_k, "timeout_ms": 60_000}
            started = time.perf_counter()
            answer = _post(f"{url}/retrieve", body)
            latencies.append(time.perf_counter() - started)
            hits += len(answer["results"]) if index else 0
    shutil.rmtree(store, ignore_errors=True)
    shutil.rmtree(photos, ignore_errors=True)
    return np.array(latencies[1:]), hits


@contextlib.contextmanager
def _served(program: str, store: Path, artifacts: Path) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {
        **os.environ,
        "DOPPEL_DATA_DIR": str(store),
        "DOPPEL_ARTIFACTS": str(artifacts),
        # every request pays its full price
        "DOPPEL_CACHE__MAX_BYTES": "0",
        "DOPPEL_LIMITS__RATE": "",
        "DOPPEL_READY_CHECK_TIMEOUT_S": "60",
    }
    process = subprocess.Popen(
        [program, "serve", "--insecure", "--port", str(port)], env=environment, stdout=sys.stderr, stderr=sys.stderr
    )
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            with contextlib.suppress(urllib.error.URLError, ConnectionError, TimeoutError):
                if urllib.request.urlopen(f"{url}/readyz", timeout=60).status == 200:
                    break
            time.sleep(0.5)
        yield url
    finally:
        process.terminate()
        process.wait(timeout=60)


def _post(url: str, body: dict[str, Any]) -> dict[str, Any]:
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as response:
        return dict(json.loads(response.read()))
