# Each target is a task of scripts/dev.sh, which says what they do and needs no make.
#
#   make test PYTHON=python3.12 ARGS="-k timers -x"

PYTHON ?=
ARGS ?=
export PYTHON

TASKS = setup build test conformance compat demo examples services debug asan tsan oom leaks fault lint fmt bench docs archive wheels clean help

.DEFAULT_GOAL = help
.PHONY: $(TASKS)

$(TASKS):
	@sh scripts/dev.sh $@ $(ARGS)
