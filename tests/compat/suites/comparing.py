"""What a test that ended one way on asyncio and another way on pyloop comes to."""

import dataclasses

BAD = frozenset({"failed", "error", "died", "missing"})
GOOD = frozenset({"passed", "xfailed", "xpassed"})


@dataclasses.dataclass(frozen=True)
class Ended:
    """How a test ended: pytest's word, or died (with its process), or missing."""

    outcome: str
    text: str = ""
    loops: tuple = ()  # the classes of the loops that ran in it


MISSING = Ended("missing", "there was no such test in this run")


def is_worse(reference, candidate):
    """Whether an outcome is one that the reference's does not excuse."""
    if candidate in BAD:
        return reference not in BAD
    return candidate == "skipped" and reference in GOOD


def worse(reference, candidate):
    """The tests that are worse in the candidate's results, both {test: Ended}."""
    return [
        test
        for test, ended in reference.items()
        if is_worse(ended.outcome, candidate.get(test, MISSING).outcome)
    ] + [
        test
        for test, ended in candidate.items()
        if test not in reference and ended.outcome in BAD
    ]


def is_steady(rounds):
    """Whether a difference is one, by the outcomes of all rounds of both loops.

    rounds: pairs (asyncio's outcome, pyloop's), the first that of the whole run. A test
    that fails on asyncio too, in whichever round, or in one round only on pyloop,
    depends on the moment.
    """
    if any(reference in BAD for reference, _ in rounds[1:]):
        return False
    return sum(is_worse(*one) for one in rounds) > 1


def explain(differences, known):
    """Part differences by a list of known ones, {test or test without [...]: reason}.

    Returns what nobody has explained, and the entries that explain nothing any more.
    """

    def entry_of(test):
        return next(
            (name for name in (test, test.split("[")[0]) if name in known), None
        )

    used = {entry_of(test) for test in differences}
    unexplained = [test for test in differences if entry_of(test) is None]
    return unexplained, [entry for entry in known if entry not in used]


def foreign_loops(kinds, allowed):
    """The classes of loops, {class: count}, that are neither pyloop's nor allowed."""
    return sorted(
        kind for kind in kinds if not kind.startswith("pyloop.") and kind not in allowed
    )


def counts(results):
    """How many tests ran, passed, failed and were skipped."""
    outcomes = [ended.outcome for ended in results.values()]
    good = sum(outcome in GOOD for outcome in outcomes)
    bad = sum(outcome in BAD for outcome in outcomes)
    return {
        "run": good + bad,
        "passed": good,
        "failed": bad,
        "skipped": outcomes.count("skipped"),
    }
