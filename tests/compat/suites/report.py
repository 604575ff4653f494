"""What the runs of the suites come to: the file that the table is made from."""

import json

from comparing import counts


def facts(run):
    """What is kept of a run."""
    return {**counts(run.results), "seconds": round(run.seconds), "loops": run.kinds}


def read(path):
    """What write() has written, {} before that."""
    return json.loads(path.read_text()) if path.exists() else {}


def write(path, versions, suites):
    """Write the results of suites, {name: facts}; those of others stay as they are.

    Unless they are of other versions of Python or pyloop: then they go.
    """
    old = read(path)
    kept = old.get("suites", {}) if old.get("versions") == versions else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    results = {"versions": versions, "suites": dict(sorted({**kept, **suites}.items()))}
    path.write_text(json.dumps(results, indent=2) + "\n")
