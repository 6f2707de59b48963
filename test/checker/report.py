"""Says what was tried how often, and what held."""

import collections

import invariants
from invariants.readers import stretches

SHOWN = 5    # violations per invariant


class Count:
    """Counts checks, and prints a line for each."""

    def __init__(self):
        self.passed = 0
        self.failed = 0

    def check(self, title, problems):
        problems = list(problems)
        if not problems:
            self.passed += 1
            print("ok      %s" % title, flush=True)
            return True
        self.failed += 1
        print("FAILED  %s" % title)
        for problem in problems[:SHOWN]:
            print("          %s" % problem)
        if len(problems) > SHOWN:
            print("          and %d more" % (len(problems) - SHOWN), flush=True)
        return False

    def summary(self):
        print("%d passed, %d failed" % (self.passed, self.failed), flush=True)


def frequencies(things):
    return ", ".join("%s %d" % item for item in sorted(collections.Counter(things).items())) or "none"


def tell(history):
    """What happened in a round."""
    transactions = history.transactions.values()
    kinds = collections.defaultdict(list)
    for t in transactions:
        kinds[t.kind].append(t.outcome)
    for kind, outcomes in sorted(kinds.items()):
        print("  %-12s %s" % (kind, frequencies(outcomes)))
    unknown = [t.name for t in transactions if t.outcome == "info"]
    final = history.final()
    print("  unanswered commits: %d, of which %d had committed" % (
        len(unknown), sum(any(n in s.ledger for s in history.stores) for n in unknown)))
    for store in history.stores:
        print("  %s primary: %d transactions committed, %d events in the feed, %d segments' worth of passes" % (
            store.name, len(store.ledger), len(store.feed), len({e.sealed_at for e in store.feed})))
    if len(history.stores) > 1:
        old = history.stores[0]
        gone = [t for t in transactions if t.name in old.ledger and t.name not in final.ledger]
        print("  lost with the old primary's tail: %d transactions, %d of them acknowledged" % (
            len(gone), sum(t.outcome == "ok" for t in gone)))
    for s in history.subscribers:
        count = collections.Counter(r["op"] for r in s.records)
        told = len(list(stretches(s.records))) - 1
        how = frequencies(r["how"] for r in s.handled())
        print("  %-11s handled %d (%s), connected %d times, told of another history %d times, errors: %s" % (
            s.name, count["event"], how, count["start"], told,
            frequencies(r["code"] for r in s.records if r["op"] == "error")))
    print("  faults carried out: " + frequencies(f["kind"] for f in history.faults))


def judge(history, count, prefix=""):
    for invariant in invariants.ALL:
        count.check("%s%s: %s" % (prefix, invariants.name(invariant), invariant.TITLE), invariant.check(history))
