"""What `pipeline.py --demo` reads: log files that it writes, one line in 100 broken."""

import asyncio
import collections
import json
import os
import random
import tempfile

import pipeline

FILES = 20
LINES = 5000  # of each file
STATUSES = (200, 200, 200, 200, 304, 404, 500)


def write_logs(folder):
    """Write the files; return their paths and what there is to count."""
    chance = random.Random(1)
    counts = collections.Counter(files=FILES)
    paths = []
    for number in range(FILES):
        paths.append(os.path.join(folder, f"access-{number:02}.log"))
        with open(paths[-1], "w", encoding="utf-8") as file:
            for line in range(LINES):
                if line % 100 == number:
                    file.write("this is no request\n")
                    counts["rejected"] += 1
                    continue
                status, size = chance.choice(STATUSES), chance.randrange(10_000)
                path = f"/item/{chance.randrange(1000)}"
                file.write(
                    f"10.0.0.{number} - - [22/Nov/2026:10:00:00 +0000] "
                    f'"GET {path} HTTP/1.1" {status} {size}\n'
                )
                counts["records"] += 1
                counts["bytes"] += size
                counts[f"status {status // 100}xx"] += 1
    return paths, counts


def written(output):
    """What is in the output, counted anew."""
    counts = collections.Counter(files=FILES)
    with open(output, encoding="utf-8") as file:
        for record in map(json.loads, file):
            counts["records"] += 1
            counts["bytes"] += record["size"]
            counts[f"status {record['status'] // 100}xx"] += 1
    places = set()
    with open(f"{output}.rejected", encoding="utf-8") as file:
        for reject in map(json.loads, file):
            counts["rejected"] += 1
            # Where it is said to be, it is.
            assert reject["line"] % 100 == int(reject["file"][7:9]) + 1, reject
            places.add((reject["file"], reject["line"]))
    assert len(places) == counts["rejected"]
    return counts


def main(options):
    """Write logs, run the pipeline over them, check the output; return the status."""
    with tempfile.TemporaryDirectory() as folder:
        paths, expected = write_logs(folder)
        output = os.path.join(folder, "requests.jsonl")
        status, done = asyncio.run(pipeline.run(paths, output, options))
        if status != 0:
            return status
        pipeline.show(done)
        left = sorted(set(os.listdir(folder)) - set(map(os.path.basename, paths)))
        print("written:", *left)
        if not expected == done.counts == written(output):
            print("that is not what was in the files")
            return 1
        bound = 2 * pipeline.QUEUED + options.readers + options.workers + 1
        if done.most_held > bound:
            print(f"{done.most_held} blocks were in memory, {bound} may be")
            return 1
    print("every line is in the output, or among the rejected")
    return 0
