# Each target is a task of scripts/dev.sh, which says what they do and needs no make.
#
#   make test PYTHON=python3.12 ARGS="-k timers -x"

PYTHON ?=
ARGS ?=
export PYTHON

TASKS = build test demo debug asan bench lint fmt clean help

.DEFAULT_GOAL = help
.PHONY: $(TASKS)

$(TASKS):
	@sh scripts/dev.sh $@ $(ARGS)
