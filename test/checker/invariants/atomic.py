import collections

TITLE = "a transaction's events are in the feed all or none, in emit order, sealed at once"


def check(history):
    for store in history.stores:
        found = collections.defaultdict(list)
        for event in store.feed:
            if event.tag is not None:
                found[event.tag[0]].append(event)
        for name, events in found.items():
            transaction = history.transactions.get(name)
            if transaction is None:
                continue    # another invariant's
            wanted = [e.tag for e in transaction.wanted()]
            tags = [e.tag for e in events]
            if len(tags) < len(wanted):
                yield "%s: %d of %d events of transaction %s are in the feed" % (
                    store.name, len(tags), len(wanted), name)
            elif tags != wanted:
                yield "%s: transaction %s emitted %s, the feed has %s" % (store.name, name, wanted, tags)
            if len({e.sealed_at for e in events}) > 1:
                yield "%s: the events of transaction %s were sealed by different passes" % (store.name, name)
