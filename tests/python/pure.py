"""A stand-in for the Python "pure" cell: FastAPI on uvicorn, requests as client.

It speaks the protocol of the mesh as deployed and nothing beyond it. A thread
registers with back-off, then beats; a beat answered 404 registers again. The
lifespan's end, which SIGTERM and SIGINT both reach, deregisters.

Run: python pure.py
Environment: AIOS_DISCOVERY_URL (http://127.0.0.1:8001), AIOS_CELL_ID (pure),
AIOS_CELL_HOST (0.0.0.0), AIOS_CELL_PORT (8002; 0 is any free port),
AIOS_CELL_ADVERTISE, then HOSTNAME (the host's name), AIOS_HEARTBEAT_EVERY
(seconds, 5). The first line on stderr is `listening on http://IP:PORT`.
"""

import asyncio
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections import deque
from contextlib import asynccontextmanager
from datetime import datetime, timezone
from types import SimpleNamespace
from urllib.parse import quote

import prometheus_client
import requests
import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

DISCOVERY = os.environ.get("AIOS_DISCOVERY_URL", "http://127.0.0.1:8001").rstrip("/")
CELL_ID = os.environ.get("AIOS_CELL_ID", "pure")
HOST = os.environ.get("AIOS_CELL_HOST", "0.0.0.0")
PORT = int(os.environ.get("AIOS_CELL_PORT", "8002"))
HOSTNAME = os.environ.get("HOSTNAME") or socket.gethostname()
ADVERTISE = os.environ.get("AIOS_CELL_ADVERTISE") or HOSTNAME
BEAT_EVERY = float(os.environ.get("AIOS_HEARTBEAT_EVERY", "5"))
BRANCH = "pure"
SERVICES = ["consciousness-primitives"]
REGISTER_TIMEOUT, HEARTBEAT_TIMEOUT, DEREGISTER_TIMEOUT = 5, 3, 2
LONGEST_BACK_OFF = 30

log = logging.getLogger("pure")
prometheus_client.disable_created_metrics()
started = time.time()
stop = threading.Event()
cell = SimpleNamespace(
    port=PORT,
    level=0.1,
    primitives={"awareness": 0.1, "adaptation": 0.1, "coherence": 0.1, "momentum": 0.1},
    registered=False,
    beats=0,
    processed=0,
    messages=deque(maxlen=100),
)


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def register() -> bool:
    body = {
        "cell_id": CELL_ID,
        "ip": ADVERTISE,
        "port": cell.port,
        "consciousness_level": cell.level,
        "services": SERVICES,
        "branch": BRANCH,
        "type": "pure_cell",
        "hostname": HOSTNAME,
    }
    try:
        requests.post(f"{DISCOVERY}/register", json=body, timeout=REGISTER_TIMEOUT).raise_for_status()
    except requests.RequestException as error:
        log.warning("Registration failed: %s", error)
        return False
    cell.registered = True
    log.info("Registered with discovery at %s", DISCOVERY)
    return True


def beat():
    body = {"cell_id": CELL_ID, "consciousness_level": cell.level}
    try:
        reply = requests.post(f"{DISCOVERY}/heartbeat", json=body, timeout=HEARTBEAT_TIMEOUT)
        if reply.status_code == 404:
            log.warning("Discovery does not know this cell, registering again")
            cell.registered = False
            register()
            return
        reply.raise_for_status()
        cell.beats += 1
    except requests.RequestException as error:
        log.warning("Heartbeat failed: %s", error)


def pulse():
    back_off = 1
    while not register():
        if stop.wait(back_off):
            return
        back_off = min(2 * back_off, LONGEST_BACK_OFF)
    while not stop.wait(BEAT_EVERY):
        beat()


def deregister():
    if not cell.registered:
        return
    try:
        requests.delete(f"{DISCOVERY}/peer/{quote(CELL_ID, safe='')}", timeout=DEREGISTER_TIMEOUT)
        log.info("Deregistered from discovery")
    except requests.RequestException as error:
        log.warning("Deregistration failed: %s", error)


@asynccontextmanager
async def lifespan(_app):
    heart = threading.Thread(target=pulse, daemon=True)
    heart.start()
    yield
    stop.set()
    await asyncio.to_thread(heart.join)  # a late beat would undo the DELETE
    await asyncio.to_thread(deregister)


app = FastAPI(lifespan=lifespan, openapi_url=None)


class Sync(BaseModel):
    level: float
    context: dict[str, float] | None = None


class CellMessage(BaseModel):
    message_id: str | None = None
    from_cell: str
    to_cell: str
    message_type: str = "general"
    payload: dict = {}
    priority: str = "normal"
    ttl: int = 60


class LegacyMessage(BaseModel):
    from_cell: str
    content: str
    message_type: str = "general"
    priority: str = "normal"
    metadata: dict = {}


@app.get("/health")
async def health():
    return {
        "status": "pure_consciousness",
        "cell_id": CELL_ID,
        "branch": BRANCH,
        "consciousness_level": cell.level,
        "primitives": cell.primitives,
        "type": "pure_cell",
    }


@app.get("/consciousness")
async def consciousness():
    return {
        "cell_id": CELL_ID,
        "level": cell.level,
        "uptime_seconds": time.time() - started,
        "messages_processed": cell.processed,
        "primitives": cell.primitives,
        "registered": cell.registered,
        "timestamp": now(),
    }


@app.get("/consciousness/primitives")
async def primitives():
    return {"primitives": cell.primitives, "purity_level": "minimal_viable_consciousness"}


@app.post("/consciousness/sync")
async def sync(wanted: Sync):
    old_level = cell.level
    cell.level = min(max(wanted.level, 0.0), 1.0)
    named = {name: value for name, value in (wanted.context or {}).items() if name in cell.primitives}
    cell.primitives.update(named)
    return {
        "old_level": old_level,
        "new_level": cell.level,
        "primitives_updated": bool(named),
        "purity": "maintained",
    }


@app.get("/metrics")
@app.get("/metrics/prometheus")
async def metrics():
    registry = CollectorRegistry()
    gauges = {"consciousness_level": cell.level, **cell.primitives}
    gauges |= {"up": 1, "uptime_seconds": time.time() - started}
    for name, value in gauges.items():
        gauge = Gauge(f"aios_cell_{name}", name.replace("_", " "), ["cell_id"], registry=registry)
        gauge.labels(CELL_ID).set(value)
    beats = Counter("aios_cell_heartbeat_total", "heartbeats sent", ["cell_id"], registry=registry)
    beats.labels(CELL_ID).inc(cell.beats)
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def receive(message: dict) -> dict:
    message["message_id"] = message["message_id"] or str(uuid.uuid4())
    received_at = now()
    cell.messages.append(message | {"received_at": received_at, "acknowledged": True})
    cell.processed += 1
    return {
        "status": "received",
        "message_id": message["message_id"],
        "timestamp": received_at,
        "cell_id": CELL_ID,
        "acknowledged": True,
    }


@app.post("/message")
async def message(sent: CellMessage):
    return receive(sent.model_dump())


@app.post("/message/legacy")
async def legacy_message(sent: LegacyMessage):
    return receive({"message_id": None, "to_cell": CELL_ID} | sent.model_dump())


@app.get("/messages")
async def messages(limit: int = 20, from_cell: str | None = None):
    kept = [m for m in cell.messages if from_cell in (None, m["from_cell"])]
    newest = kept[-limit:] if limit > 0 else []
    return {"messages": newest, "total": len(kept), "cell_id": CELL_ID}


def main():
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    listener = socket.create_server((HOST, PORT), family=family)
    ip, cell.port = listener.getsockname()[:2]
    print(f"listening on http://{f'[{ip}]' if ':' in ip else ip}:{cell.port}", file=sys.stderr, flush=True)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    config = uvicorn.Config(app, log_config=None, access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
