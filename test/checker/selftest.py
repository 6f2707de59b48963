"""Tests the checker: each planted fault must be caught, and what is sound must pass.

	selftest.py --directory D --settings F [--history H]

H is what a round recorded (a short one is played if it is not given).  The library
must be compiled with -DES_PLANTED_FAULTS.
"""

import argparse
import os
import sys

import invariants
import mutations
import planted
import report
from cluster import PRIMARY_PORT, Server
from history import History
from round import Round


def violations(history, names=None):
    """A line for each invariant that does not hold; `names`: look at these only."""
    for invariant in invariants.ALL:
        if names is None or invariants.name(invariant) in names:
            for problem in invariant.check(history):
                yield "%s: %s" % (invariants.name(invariant), problem)
                break


def must_hold(count, title, history):
    count.check(title, violations(history))


def must_be_caught(count, title, history, by):
    caught = list(violations(history, by))
    count.check("%s is caught" % title, [] if caught else ["not by " + " or ".join(sorted(by))])
    if caught:
        print("          " + caught[0])


def test_mutations(count, history):
    must_hold(count, "a sound history passes", history)
    must_hold(count, "so does one primary's feed by itself", mutations.plant(mutations.sound, history))
    for mutation, by in mutations.ALL.items():
        title = "history with " + mutation.__name__.replace("_", " ")
        try:
            must_be_caught(count, title, mutations.plant(mutation, history), by)
        except mutations.CannotPlant as reason:
            count.check(title, ["not planted: %s" % reason])


def test_planted(count, directory, settings):
    server = Server(os.path.join(directory, "planted.data"), PRIMARY_PORT, settings)
    server.create(planted.SETTINGS)
    server.start()
    try:
        for story, by in planted.ALL.items():
            name = story.__name__
            for fault in ("none", name):
                stage = planted.Stage(server, os.path.join(directory, "story-%s-%s" % (name, fault)), fault)
                story(stage)
                history = stage.history()
                if fault == "none":
                    must_hold(count, "story of %s without the fault" % name, history)
                else:
                    must_be_caught(count, "story of %s with it" % name, history, by)
    finally:
        server.stop("immediate")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", required=True)
    parser.add_argument("--settings", required=True)
    parser.add_argument("--history")
    arguments = parser.parse_args()
    with open(arguments.settings) as f:
        settings = f.read()

    count = report.Count()
    test_planted(count, arguments.directory, settings)
    if arguments.history:
        history = History.load(arguments.history)
    else:
        history = Round(os.path.join(arguments.directory, "round-1"), 1, 10, settings).run()
    test_mutations(count, history)
    count.summary()
    return 1 if count.failed else 0


if __name__ == "__main__":
    sys.exit(main())
