"""The picture of the page in the README, of a mesh that lives for four minutes.

    portrait.py DISCOVERY CELL FOLDER

writes page.png to FOLDER.
"""

import random
import sys
import time

from browser import run

LASTS = 240
CELLS = {
    "alpha_cell": ["alpha1", "alpha2"],
    "pure_cell": ["pure1", "pure2", "pure3"],
    "cell": ["builder", "indexer", "mailer", "planner", "reader1", "reader2", "reader3", "router", "worker7"],
}


def portrait(world):
    chance = random.Random(7)
    discovery = world.discovery("--hold-min", "0")
    kinds = {cell_id: kind for kind, ids in CELLS.items() for cell_id in ids}

    def register(cell_id):
        more = {"type": kinds[cell_id], "consciousness_level": chance.uniform(0.2, 4)}
        discovery.register(cell_id, 8000 + sorted(kinds).index(cell_id), **more)

    looked = world.look(discovery, viewport={"width": 1240, "height": 640})
    here, beaten = set(), {}
    started = time.monotonic()
    while (passed := time.monotonic() - started) < LASTS:
        for number, cell_id in enumerate(kinds):
            dies = passed > LASTS - 30 and cell_id == "mailer"
            pauses = passed > LASTS - 9 and cell_id == "reader2"
            stops = passed > LASTS - 70 and cell_id == "indexer" or 90 < passed < 120 and cell_id.startswith("reader")
            if stops and cell_id in here:
                discovery.ask("DELETE", f"/peer/{cell_id}")
                here.remove(cell_id)
            elif cell_id not in here and not stops and passed > number * 5:
                register(cell_id)
                here.add(cell_id)
            elif cell_id in here and not dies and not pauses and passed - beaten.get(cell_id, 0) > 5:
                beaten[cell_id] = passed - chance.uniform(0, 1)
                beat = {"cell_id": cell_id, "consciousness_level": chance.uniform(0.2, 4)}
                discovery.ask("POST", "/heartbeat", beat)
        time.sleep(0.2)
    looked.page.mouse.move(0, 0)
    world.picture(looked, "page")


if __name__ == "__main__":
    run(portrait, *sys.argv[1:])
