"""Load, faults, healing, quiet, verdict.  Called by scripts/torture.sh, as the user who owns the servers.

Long runs are made of rounds, each with new servers and a schedule of faults from a
seed of its own (seed, seed + 1, ...), so that a round that failed can be repeated
alone.
"""

import argparse
import os
import signal
import sys
import textwrap
import traceback

import report
from faults import KINDS, PROMOTION
from round import Round

LONGEST_ROUND = 240


def play(number, round, count):
    """One round, told and judged; returns whether all held."""
    print("round %d: seed %d, %d s" % (number, round.seed, round.seconds))
    print(textwrap.fill("; ".join("%.1f %s" % (at, kind) for at, kind, _ in round.plan), 110,
                        initial_indent="  faults: ", subsequent_indent="  "), flush=True)
    failed = count.failed
    try:
        history = round.run()
    except Exception:
        count.check("round %d: the servers could be broken, healed and brought to rest" % number,
                    traceback.format_exc().splitlines()[-3:])
        return False
    report.tell(history)
    count.check("round %d: the servers could be broken, healed and brought to rest" % number,
                ["not %s" % kind for _, kind, _ in round.plan if kind not in {f["kind"] for f in history.faults}] +
                ["%s did not catch up" % name for name in round.unsettled] +
                ([] if any(t.outcome == "ok" for t in history.transactions.values()) else ["nothing was committed"]))
    report.judge(history, count)
    return count.failed == failed


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--directory", required=True)
    parser.add_argument("--settings", required=True, help="file with lines for postgresql.conf")
    parser.add_argument("--faults", type=lambda s: s.split(","), default=None, help="only these kinds")
    arguments = parser.parse_args()
    for kind in arguments.faults or []:
        if kind not in [*KINDS, PROMOTION]:
            parser.error("there is no fault %s, only %s" % (kind, ", ".join([*KINDS, PROMOTION])))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with open(arguments.settings) as f:
        settings = f.read()

    count = report.Count()
    rounds = -(-arguments.seconds // LONGEST_ROUND)
    for i in range(rounds):
        round = Round(os.path.join(arguments.directory, "round-%d" % (i + 1)), arguments.seed + i,
                      arguments.seconds // rounds, settings, arguments.faults)
        if play(i + 1, round, count):
            round.remove_data()
    count.summary()
    return 1 if count.failed or not count.passed else 0


if __name__ == "__main__":
    sys.exit(main())
