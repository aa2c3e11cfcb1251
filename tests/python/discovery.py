"""A stand-in for the Python discovery service: FastAPI on uvicorn.

It speaks the protocol of the mesh as deployed and nothing beyond it, faults
included: ages come from the wall clock, any cell_id and any port is accepted,
a NaN level breaks /peers, a restart forgets all peers.

Run: python discovery.py
Environment (durations in seconds): DISCOVERY_HOST (0.0.0.0), DISCOVERY_PORT
(8001; 0 is any free port), CELL_ID (discovery), AIOS_MY_HOST (the host's
name), AIOS_BRANCH (main), AIOS_LEVEL (1.0), AIOS_STALE_AFTER (15),
AIOS_REAP_EVERY (5). The first line on stderr is `listening on http://IP:PORT`.
"""

import asyncio
import logging
import os
import socket
import sys
import time
from contextlib import asynccontextmanager
from datetime import datetime, timezone

import uvicorn
from fastapi import FastAPI, HTTPException, Response
from prometheus_client import CollectorRegistry, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

HOST = os.environ.get("DISCOVERY_HOST", "0.0.0.0")
PORT = int(os.environ.get("DISCOVERY_PORT", "8001"))
CELL_ID = os.environ.get("CELL_ID", "discovery")
MY_HOST = os.environ.get("AIOS_MY_HOST") or socket.gethostname()
BRANCH = os.environ.get("AIOS_BRANCH", "main")
LEVEL = float(os.environ.get("AIOS_LEVEL", "1.0"))
STALE_AFTER = float(os.environ.get("AIOS_STALE_AFTER", "15"))
REAP_EVERY = float(os.environ.get("AIOS_REAP_EVERY", "5"))

log = logging.getLogger("discovery")
started = time.time()
peers: dict[str, dict] = {}  # a replaced id keeps its place, as dicts do


class Registration(BaseModel):
    cell_id: str
    ip: str
    port: int
    consciousness_level: float = 0.0
    services: list[str] = []
    branch: str = "main"
    type: str = "cell"
    hostname: str = ""


class Heartbeat(BaseModel):
    cell_id: str
    consciousness_level: float = 0.0


def shown(peer: dict) -> dict:
    seen = datetime.fromtimestamp(peer["last_seen"], timezone.utc)
    return peer | {"last_seen": seen.strftime("%Y-%m-%dT%H:%M:%S.%fZ")}


async def reap():
    while True:
        await asyncio.sleep(REAP_EVERY)
        now = time.time()
        for cell_id, peer in list(peers.items()):
            age = now - peer["last_seen"]
            if age > STALE_AFTER:
                log.warning("Reaping stale peer %s (age: %.1fs)", cell_id, age)
                del peers[cell_id]


@asynccontextmanager
async def lifespan(_app):
    reaper = asyncio.create_task(reap())
    yield
    reaper.cancel()


app = FastAPI(lifespan=lifespan, openapi_url=None)


def read(path: str):
    """A GET route that answers HEAD too, which FastAPI's own `get` does not."""
    return app.api_route(path, methods=["GET", "HEAD"])


@app.post("/register")
async def register(cell: Registration):
    peers[cell.cell_id] = cell.model_dump() | {"last_seen": time.time()}
    log.info("Registered peer: %s at %s:%s (branch: %s)", cell.cell_id, cell.ip, cell.port, cell.branch)
    return {"status": "registered", "cell_id": cell.cell_id}


@app.post("/heartbeat")
async def heartbeat(beat: Heartbeat):
    peer = peers.get(beat.cell_id)
    if peer is None:
        raise HTTPException(404, f"Peer {beat.cell_id} not registered. Call /register first.")
    peer["last_seen"] = time.time()
    peer["consciousness_level"] = beat.consciousness_level
    return {"status": "ok", "cell_id": beat.cell_id, "peers_count": len(peers)}


def remove(cell_id: str):
    if peers.pop(cell_id, None) is None:
        raise HTTPException(404, "Peer not found")
    log.info("Peer deregistered gracefully: %s", cell_id)


@app.delete("/peer/{cell_id}")
async def deregister(cell_id: str):
    remove(cell_id)
    return {"status": "deregistered", "cell_id": cell_id}


@app.delete("/unregister/{cell_id}")
async def unregister(cell_id: str):
    remove(cell_id)
    return {"status": "unregistered"}


@read("/peers")
async def list_peers():
    return {"peers": [shown(peer) for peer in peers.values()], "count": len(peers), "my_host": MY_HOST}


@read("/health")
async def health():
    return {
        "status": "healthy",
        "cell_id": CELL_ID,
        "branch": BRANCH,
        "consciousness_level": LEVEL,
        "services": [],
        "type": "discovery",
        "hostname": MY_HOST,
    }


@read("/metrics")
async def metrics():
    values = {
        "consciousness_level": LEVEL,
        "awareness": LEVEL,
        "adaptation": LEVEL,
        "coherence": LEVEL,
        "momentum": LEVEL,
        "peers_count": len(peers),
        "up": 1,
        "uptime_seconds": time.time() - started,
    }
    registry = CollectorRegistry()
    for name, value in values.items():
        gauge = Gauge(f"aios_cell_{name}", name.replace("_", " "), ["cell_id"], registry=registry)
        gauge.labels(CELL_ID).set(value)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def main():
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    listener = socket.create_server((HOST, PORT), family=family)
    ip, port = listener.getsockname()[:2]
    print(f"listening on http://{f'[{ip}]' if ':' in ip else ip}:{port}", file=sys.stderr, flush=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = uvicorn.Config(app, log_config=None, access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
