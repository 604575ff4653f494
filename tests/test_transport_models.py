"""Random programs on one stream transport, with asyncio's own loop as the model.

A program is a list of steps: calls of the transport's methods, and what the peer does
(see modelkit). It runs on a fresh loop of each kind, and what can be seen from outside
has to be the same. Known faults of asyncio are left out by `Program.allowed`.

The examples are the same in every run (derandomize).
"""

import pytest
from modelkit import KINDS, Program, agree, examples, hypothesis

st = hypothesis.strategies

STEPS = [
    "write small",
    "write small",
    "write large",
    "write nothing",
    "write text",
    "writelines",
    "writelines twice",
    "pause",
    "resume",
    "close",
    "abort",
    "write_eof",
    "limits high",
    "limits zero",
    "switch protocol",
    "peer sends",
    "peer sends",
    "peer sends much",
    "peer reads",
    "peer reads",
    "peer shuts",
    "peer closes",
    "let run",
    "let run",
    "let run",
]

NOWHERE = ("nowhere", "close")

programs = st.lists(st.sampled_from(STEPS), min_size=1, max_size=14)
insides = st.one_of(
    st.just(NOWHERE),
    st.tuples(
        st.sampled_from(
            ["connection_made", "data_received", "buffer_updated", "eof_received"]
        ),
        st.sampled_from(["write small", "pause", "close", "abort", "write_eof"]),
    ),
)


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(steps=programs, buffered=st.booleans(), keep_open=st.booleans())
@examples(40)
def test_random_programs(loop_kind, kind, steps, buffered, keep_open):
    agree(
        Program,
        loop_kind,
        steps,
        kind=kind,
        buffered=buffered,
        keep_open=keep_open,
        inside=NOWHERE,
    )


@pytest.mark.parametrize("kind", KINDS)
@hypothesis.given(steps=programs, buffered=st.booleans(), inside=insides)
@examples(25)
def test_random_programs_with_calls_inside_callbacks(
    loop_kind, kind, steps, buffered, inside
):
    agree(
        Program,
        loop_kind,
        steps,
        kind=kind,
        buffered=buffered,
        keep_open=False,
        inside=inside,
    )


@pytest.mark.parametrize(
    "steps",
    [
        ["write large", "close", "write small", "peer reads"],
        ["write large", "write_eof", "close", "peer reads"],
        ["write large", "peer closes", "let run"],
        ["peer sends", "peer closes", "write small", "let run"],
        ["pause", "peer sends", "peer closes", "let run", "resume", "let run"],
        ["pause", "peer closes", "write small", "write small", "let run"],
        ["limits zero", "write large", "peer reads", "write large", "abort"],
        ["write_eof", "write small", "peer shuts", "let run"],
        ["write large", "limits high", "limits zero", "peer reads", "let run"],
        ["write large", "switch protocol", "peer reads", "peer sends", "let run"],
        ["close", "switch protocol", "let run"],
        ["peer sends", "switch protocol", "let run", "peer shuts", "let run"],
    ],
    ids=" / ".join,
)
def test_chosen_programs(loop_kind, steps):
    for kind in KINDS:
        for buffered, keep_open in [(False, False), (True, True)]:
            agree(
                Program,
                loop_kind,
                steps,
                kind=kind,
                buffered=buffered,
                keep_open=keep_open,
                inside=NOWHERE,
            )


def test_the_steps_are_methods():
    for step in STEPS:
        if step not in ("let run", "peer reads"):
            assert callable(getattr(Program, "do_" + step.replace(" ", "_")))
