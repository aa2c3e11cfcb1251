"""A stand-in for the Python "pure" cell: FastAPI on uvicorn, requests as client.

It speaks the protocol of the mesh as deployed and nothing beyond it. The
lifespan's end, which SIGTERM and SIGINT both reach, deregisters.

Run: python pure.py
Environment: as membership.py reads it; the defaults are pure and 8002. The
first line on stderr is `listening on http://IP:PORT`.
"""

import asyncio
import socket
import uuid
from collections import deque
from contextlib import asynccontextmanager
from types import SimpleNamespace

import uvicorn
from fastapi import FastAPI, Response
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel

from membership import HOST, Membership, now, say_where, uptime

member = Membership(
    cell_id="pure",
    port=8002,
    level=0.1,
    services=["consciousness-primitives"],
    branch="pure",
    kind="pure_cell",
)
cell = SimpleNamespace(
    primitives={"awareness": 0.1, "adaptation": 0.1, "coherence": 0.1, "momentum": 0.1},
    processed=0,
    messages=deque(maxlen=100),
)


@asynccontextmanager
async def lifespan(_app):
    member.start()
    yield
    await asyncio.to_thread(member.leave)


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
        "cell_id": member.cell_id,
        "branch": member.branch,
        "consciousness_level": member.level,
        "primitives": cell.primitives,
        "type": "pure_cell",
    }


@app.get("/consciousness")
async def consciousness():
    return {
        "cell_id": member.cell_id,
        "level": member.level,
        "uptime_seconds": uptime(),
        "messages_processed": cell.processed,
        "primitives": cell.primitives,
        "registered": member.registered,
        "timestamp": now(),
    }


@app.get("/consciousness/primitives")
async def primitives():
    return {"primitives": cell.primitives, "purity_level": "minimal_viable_consciousness"}


@app.post("/consciousness/sync")
async def sync(wanted: Sync):
    old_level = member.level
    member.level = min(max(wanted.level, 0.0), 1.0)
    named = {name: value for name, value in (wanted.context or {}).items() if name in cell.primitives}
    cell.primitives.update(named)
    return {
        "old_level": old_level,
        "new_level": member.level,
        "primitives_updated": bool(named),
        "purity": "maintained",
    }


@app.get("/metrics")
@app.get("/metrics/prometheus")
async def metrics():
    return Response(member.metrics(cell.primitives), media_type=CONTENT_TYPE_PLAIN_0_0_4)


def receive(message: dict) -> dict:
    message["message_id"] = message["message_id"] or str(uuid.uuid4())
    received_at = now()
    cell.messages.append(message | {"received_at": received_at, "acknowledged": True})
    cell.processed += 1
    return {
        "status": "received",
        "message_id": message["message_id"],
        "timestamp": received_at,
        "cell_id": member.cell_id,
        "acknowledged": True,
    }


@app.post("/message")
async def message(sent: CellMessage):
    return receive(sent.model_dump())


@app.post("/message/legacy")
async def legacy_message(sent: LegacyMessage):
    return receive({"message_id": None, "to_cell": member.cell_id} | sent.model_dump())


@app.get("/messages")
async def messages(limit: int = 20, from_cell: str | None = None):
    kept = [m for m in cell.messages if from_cell in (None, m["from_cell"])]
    newest = kept[-limit:] if limit > 0 else []
    return {"messages": newest, "total": len(kept), "cell_id": member.cell_id}


def main():
    family = socket.AF_INET6 if ":" in HOST else socket.AF_INET
    listener = socket.create_server((HOST, member.port), family=family)
    ip, member.port = listener.getsockname()[:2]
    say_where(ip, member.port)
    config = uvicorn.Config(app, log_config=None, access_log=False)
    try:
        uvicorn.Server(config).run(sockets=[listener])
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
