"""A stand-in for the Python "alpha" cell: Flask on werkzeug, requests as client.

It speaks the protocol of the mesh as deployed and nothing beyond it. The
known fault is kept: the DELETE hangs on atexit, which SIGINT reaches and
SIGTERM does not, so a terminated alpha stays listed until it is reaped.

Run: python alpha.py
Environment: as membership.py reads it; the defaults are alpha and 8000. The
first line on stderr is `listening on http://IP:PORT`.
"""

import atexit
import json
import logging
import uuid
from collections import deque
from types import SimpleNamespace

import requests
from flask import Flask, Response, abort, jsonify, request
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from werkzeug.exceptions import HTTPException
from werkzeug.serving import make_server

from membership import DISCOVERY, HOST, Membership, now, say_where, uptime

IDENTITY = "AIOS Cell Alpha"
STAGE = "hierarchical_intelligence"
PRIMITIVES = {"awareness": 4.5, "adaptation": 0.85, "coherence": 0.92, "momentum": 0.75}
PEERS_TIMEOUT, MESSAGE_TIMEOUT = 5, 5

member = Membership(
    cell_id="alpha",
    port=8000,
    level=5.2,
    services=[
        "code-analysis",
        "consciousness-sync",
        "dendritic-communication",
        "tachyonic-archival",
        "geometric-engine",
    ],
    branch="main",
    kind="alpha_cell",
)
cell = SimpleNamespace(
    processed=0,
    last_sync=None,
    messages=deque(maxlen=100),
    peers={},  # registered by hand, not those of the mesh
)

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
        "cell_id": member.cell_id,
        "consciousness": {
            "level": member.level,
            "identity": IDENTITY,
            "evolutionary_stage": STAGE,
            "communication_ready": True,
            "last_sync": cell.last_sync,
        },
        "capabilities": member.services,
        "peers_count": len(cell.peers),
        "messages_count": len(cell.messages),
        "timestamp": now(),
    }


@app.get("/consciousness")
def consciousness():
    return {
        "cell_id": member.cell_id,
        "level": member.level,
        "uptime_seconds": uptime(),
        "messages_processed": cell.processed,
        "primitives": PRIMITIVES,
        "peer_count": len(cell.peers),
        "capabilities": member.services,
        "timestamp": now(),
    }


@app.get("/discover")
def discover():
    return {
        "cell_id": member.cell_id,
        "identity": IDENTITY,
        "consciousness_level": member.level,
        "evolutionary_stage": STAGE,
        "capabilities": member.services,
        "endpoints": sorted({rule.rule for rule in app.url_map.iter_rules() if rule.endpoint != "static"}),
        "timestamp": now(),
    }


@app.get("/metrics")
def metrics():
    return Response(member.metrics(PRIMITIVES), content_type=CONTENT_TYPE_PLAIN_0_0_4)


@app.post("/sync")
def sync():
    theirs = wanted("from_cell", "consciousness_level")["consciousness_level"]
    if not isinstance(theirs, (int, float)):
        fail(400, "consciousness_level must be a number")
    cell.last_sync = now()
    return {
        "status": "synced",
        "our_level": member.level,
        "their_level": theirs,
        "delta": abs(member.level - theirs),
        "timestamp": cell.last_sync,
    }


@app.post("/message")
def message():
    body = wanted("from_cell")
    if "to_cell" in body or "content" not in body:
        body = wanted("from_cell", "to_cell")
        defaults = {"message_type": "general", "payload": {}, "priority": "normal", "ttl": 60}
    else:
        defaults = {"to_cell": member.cell_id, "type": "general", "priority": "normal", "metadata": {}}
    message_id = body.get("message_id") or str(uuid.uuid4())
    received_at = now()
    kept = defaults | body | {"message_id": message_id, "received_at": received_at, "acknowledged": True}
    cell.messages.append(kept)
    cell.processed += 1
    return {
        "status": "received",
        "message_id": message_id,
        "timestamp": received_at,
        "cell_id": member.cell_id,
        "acknowledged": True,
    }


@app.get("/messages")
def messages():
    limit = request.args.get("limit", 20, type=int)
    from_cell = request.args.get("from_cell")
    kept = [m for m in list(cell.messages) if from_cell in (None, m["from_cell"])]
    newest = kept[-limit:] if limit > 0 else []
    return {"messages": newest, "total": len(kept), "cell_id": member.cell_id}


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
        "from_cell": member.cell_id,
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
    sent = {"from_cell": member.cell_id, "content": body["message"], "type": body.get("type", "general")}
    answer = post_to(f"{peer['endpoint'].rstrip('/')}/message", sent)
    return {"status": "delivered", "peer_id": body["peer_id"], "response": answer, "timestamp": now()}


def main():
    server = make_server(HOST, member.port, app, threaded=True)
    ip, member.port = server.socket.getsockname()[:2]
    say_where(ip, member.port)
    logging.getLogger("werkzeug").setLevel(logging.WARNING)  # no line per request
    member.start()
    atexit.register(member.leave)
    server.serve_forever()


if __name__ == "__main__":
    main()
