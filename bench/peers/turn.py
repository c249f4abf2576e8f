"""One step of the peers' own bench.py, tickloom among the peers: `python turn.py load|run|live [NAME RATE RECORDS]`.

Run in a copy of the peers' folder with a Python that has what they need; the last line written is the result, as
JSON. RATE is that of live, RECORDS what a peer takes (0: what bench.py says). TICKLOOM is the command of our worker
without its delivery. A process of its own, as their modules are called bench and work, too.
"""

import json
import os
import shlex
import sys

from confluent_kafka import Producer

if __name__ == "__main__":
    sys.path[0] = os.getcwd()
    import bench

    command = shlex.split(os.environ["TICKLOOM"])
    for name, delivery in {"tickloom-eos": "exactly_once", "tickloom-alo": "at_least_once"}.items():
        bench.PEERS[name] = ([*command, delivery], bench.RECORDS)
    what, *arguments = sys.argv[1:]
    if what == "load":
        # else librdkafka sends again what a busy broker did not answer in time, behind what came after it
        bench.Producer = lambda settings: Producer(settings | {"enable.idempotence": True})
        bench.load()
    else:
        name, rate, records = arguments[0], *map(int, arguments[1:])
        if records:
            bench.PEERS[name] = (bench.PEERS[name][0], records)
        result = bench.throughput(name) if what == "run" else bench.live(name, rate, 10, 20)
        print(json.dumps(result))
