"""A stand-in for the Python "alpha" cell: Flask on werkzeug, requests as client.

It speaks the protocol of the mesh as deployed and nothing beyond it. A thread
registers with back-off, then beats; a beat answered 404 registers again. The
known fault is kept: the DELETE hangs on atexit, which SIGINT reaches and
SIGTERM does not, so a terminated alpha stays listed until it is reaped.

Run: python alpha.py
Environment: AIOS_DISCOVERY_URL (http://127.0.0.1:8001), AIOS_CELL_ID (alpha),
AIOS_CELL_HOST (0.0.0.0), AIOS_CELL_PORT (8000; 0 is any free port),
AIOS_CELL_ADVERTISE, then HOSTNAME (the host's name), AIOS_HEARTBEAT_EVERY
(seconds, 5). The first line on stderr is `listening on http://IP:PORT`.
"""

import atexit
import json
import logging
import os
import socket
import sys
import threading
import time
import uuid
from collections import deque
from datetime import datetime, timezone
from types import SimpleNamespace
from urllib.parse import quote

import prometheus_client
import requests
from flask import Flask, Response, abort, jsonify, request
from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

DISCOVERY = os.environ.get("AIOS_DISCOVERY_URL", "http://127.0.0.1:8001").rstrip("/")
CELL_ID = os.environ.get("AIOS_CELL_ID", "alpha")
HOST = os.environ.get("AIOS_CELL_HOST", "0.0.0.0")
PORT = int(os.environ.get("AIOS_CELL_PORT", "8000"))
HOSTNAME = os.environ.get("HOSTNAME") or socket.gethostname()
ADVERTISE = os.environ.get("AIOS_CELL_ADVERTISE") or HOSTNAME
BEAT_EVERY = float(os.environ.get("AIOS_HEARTBEAT_EVERY", "5"))
LEVEL = 5.2
IDENTITY = "AIOS Cell Alpha"
STAGE = "hierarchical_intelligence"
SERVICES = [
    "code-analysis",
    "consciousness-sync",
    "dendritic-communication",
    "tachyonic-archival",
    "geometric-engine",
]
PRIMITIVES = {"awareness": 4.5, "adaptation": 0.85, "coherence": 0.92, "momentum": 0.75}
REGISTER_TIMEOUT, HEARTBEAT_TIMEOUT, DEREGISTER_TIMEOUT = 5, 3, 2
PEERS_TIMEOUT, MESSAGE_TIMEOUT = 5, 5
LONGEST_BACK_OFF = 30

log = logging.getLogger("alpha")
prometheus_client.disable_created_metrics()
started = time.time()
stop = threading.Event()
cell = SimpleNamespace(
    port=PORT,
    registered=False,
    beats=0,
    processed=0,
    last_sync=None,
    messages=deque(maxlen=100),
    peers={},  # registered by hand, not those of the mesh
)


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def register() -> bool:
    body = {
        "cell_id": CELL_ID,
        "ip": ADVERTISE,
        "port": cell.port,
        "consciousness_level": LEVEL,
        "services": SERVICES,
        "branch": "main",
        "type": "alpha_cell",
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
    body = {"cell_id": CELL_ID, "consciousness_level": LEVEL}
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


def deregister(heart: threading.Thread):
    stop.set()
    heart.join()  # a late beat would undo the DELETE
    if not cell.registered:
        return
    try:
        requests.delete(f"{DISCOVERY}/peer/{quote(CELL_ID, safe='')}", timeout=DEREGISTER_TIMEOUT)
        log.info("Deregistered from discovery")
    except requests.RequestException as error:
        log.warning("Deregistration failed: %s", error)


app = Flask(__name__)


@app.errorhandler(HTTPException)
def refused(error):
    """Werkzeug's own errors as {"detail": …}, its headers (Allow) kept."""
    reply = error.get_response()
    reply.data = json.dumps({"detail": error.name})
    reply.content_type = "application/json"
    return reply


def fail(status: int, detail: str, **more):
    abort(app.make_response((jsonify(detail=detail, **more), status)))


def wanted(*fields: str) -> dict:
    """The request's JSON object; 400 where one of `fields` is missing."""
    body = request.get_json()
    if not isinstance(body, dict):
        fail(400, "A JSON object is required")
    missing = [field for field in fields if body.get(field) is None]
    if missing:
        fail(400, f"Missing fields: {', '.join(missing)}")
    return body


@app.get("/health")
def health():
    return {
        "status": "healthy",
        "server": "Cell Alpha Communication Server",
        "cell_id": CELL_ID,
        "consciousness": {
            "level": LEVEL,
            "identity": IDENTITY,
            "evolutionary_stage": STAGE,
            "communication_ready": True,
            "last_sync": cell.last_sync,
        },
        "capabilities": SERVICES,
        "peers_count": len(cell.peers),
        "messages_count": len(cell.messages),
        "timestamp": now(),
    }


@app.get("/consciousness")
def consciousness():
    return {
        "cell_id": CELL_ID,
        "level": LEVEL,
        "uptime_seconds": time.time() - started,
        "messages_processed": cell.processed,
        "primitives": PRIMITIVES,
        "peer_count": len(cell.peers),
        "capabilities": SERVICES,
        "timestamp": now(),
    }


@app.get("/discover")
def discover():
    return {
        "cell_id": CELL_ID,
        "identity": IDENTITY,
        "consciousness_level": LEVEL,
        "evolutionary_stage": STAGE,
        "capabilities": SERVICES,
        "endpoints": sorted({rule.rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"}),
        "timestamp": now(),
    }


@app.get("/metrics")
def metrics():
    registry = CollectorRegistry()
    gauges = {"consciousness_level": LEVEL, **PRIMITIVES, "up": 1, "uptime_seconds": time.time() - started}
    for name, value in gauges.items():
        gauge = Gauge(f"aios_cell_{name}", name.replace("_", " "), ["cell_id"], registry=registry)
        gauge.labels(CELL_ID).set(value)
    beats = Counter("aios_cell_heartbeat_total", "heartbeats sent", ["cell_id"], registry=registry)
    beats.labels(CELL_ID).inc(cell.beats)
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


@app.post("/sync")
def sync():
    theirs = wanted("from_cell", "consciousness_level")["consciousness_level"]
    if not isinstance(theirs, (int, float)):
        fail(400, "consciousness_level must be a number")
    cell.last_sync = now()
    return {
        "status": "synced",
        "our_level": LEVEL,
        "their_level": theirs,
        "delta": abs(LEVEL - theirs),
        "timestamp": cell.last_sync,
    }


@app.post("/message")
def message():
    body = wanted("from_cell")
    if "to_cell" in body or "content" not in body:
        body = wanted("from_cell", "to_cell")
        defaults = {"message_type": "general", "payload": {}, "priority": "normal", "ttl": 60}
    else:
        defaults = {"to_cell": CELL_ID, "type": "general", "priority": "normal", "metadata": {}}
    message_id = body.get("message_id") or str(uuid.uuid4())
    received_at = now()
    kept = defaults | body | {"message_id": message_id, "received_at": received_at, "acknowledged": True}
    cell.messages.append(kept)
    cell.processed += 1
    return {
        "status": "received",
        "message_id": message_id,
        "timestamp": received_at,
        "cell_id": CELL_ID,
        "acknowledged": True,
    }


@app.get("/messages")
def messages():
    limit = request.args.get("limit", 20, type=int)
    from_cell = request.args.get("from_cell")
    kept = [m for m in list(cell.messages) if from_cell in (None, m["from_cell"])]
    newest = kept[-limit:] if limit > 0 else []
    return {"messages": newest, "total": len(kept), "cell_id": CELL_ID}


def post_to(url: str, body: dict):
    """What the cell at `url` answers; its error status is passed on, 502 if it cannot be reached."""
    try:
        reply = requests.post(url, json=body, timeout=MESSAGE_TIMEOUT)
        answer = reply.json() if reply.ok else reply.text
    except requests.RequestException as error:
        fail(502, f"{url} cannot be reached: {error}")
    if not reply.ok:
        fail(reply.status_code, f"{url} answered {reply.status_code}", response=answer)
    return answer


@app.post("/send")
def send():
    body = wanted("to_cell")
    to_cell = body["to_cell"]
    try:
        reply = requests.get(f"{DISCOVERY}/peers", timeout=PEERS_TIMEOUT)
        reply.raise_for_status()
        mesh = {peer["cell_id"]: peer for peer in reply.json()["peers"]}
    except (requests.RequestException, KeyError) as error:
        fail(503, f"Discovery cannot be used: {error}")
    if to_cell not in mesh:
        error = f"Cell {to_cell} not found in the mesh"
        return {"status": "error", "error": error, "available_cells": list(mesh)}, 404
    peer = mesh[to_cell]
    target_url = f"http://{peer['ip'] or peer['hostname']}:{peer['port']}/message"
    sent = {
        "message_id": body.get("message_id") or str(uuid.uuid4()),
        "from_cell": CELL_ID,
        "to_cell": to_cell,
        "message_type": body.get("message_type", "general"),
        "payload": body.get("payload", {}),
        "priority": body.get("priority", "normal"),
        "ttl": body.get("ttl", 60),
    }
    return {
        "status": "delivered",
        "message_id": sent["message_id"],
        "to_cell": to_cell,
        "target_url": target_url,
        "response": post_to(target_url, sent),
        "timestamp": now(),
    }


@app.get("/peers")
def hand_registered():
    return {"peers": cell.peers, "count": len(cell.peers)}


@app.post("/register_peer")
def register_peer():
    body = wanted("cell_id", "endpoint")
    cell.peers[body["cell_id"]] = {
        "endpoint": body["endpoint"],
        "identity": body.get("identity", body["cell_id"]),
        "registered_at": now(),
    }
    return {"status": "registered", "cell_id": body["cell_id"], "peers_count": len(cell.peers)}


@app.post("/send_to_peer")
def send_to_peer():
    body = wanted("peer_id", "message")
    peer = cell.peers.get(body["peer_id"])
    if peer is None:
        fail(404, "Peer not found")
    sent = {"from_cell": CELL_ID, "content": body["message"], "type": body.get("type", "general")}
    answer = post_to(f"{peer['endpoint'].rstrip('/')}/message", sent)
    return {"status": "delivered", "peer_id": body["peer_id"], "response": answer, "timestamp": now()}


def main():
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line per request
    server = make_server(HOST, PORT, app, threaded=True)
    ip, cell.port = server.socket.getsockname()[:2]
    print(f"listening on http://{f'[{ip}]' if ':' in ip else ip}:{cell.port}", file=sys.stderr, flush=True)
    heart = threading.Thread(target=pulse, daemon=True)
    heart.start()
    atexit.register(deregister, heart)
    server.serve_forever()


if __name__ == "__main__":
    main()
