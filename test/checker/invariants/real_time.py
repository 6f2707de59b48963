TITLE = "if a commit returned before an event was emitted, its events stand before that event"


def check(history):
    for store in history.stores:
        # From the end: the earliest answer to a commit whose events stand behind.
        earliest, whose = float("inf"), None
        emitted_at = {e.tag: e.at for t in history.transactions.values() for e in t.events}
        for event in reversed(store.feed):
            if event.tag is None or event.tag not in emitted_at:
                continue
            if earliest < emitted_at[event.tag]:
                yield "%s: %s at position %d was emitted %.6f s after the commit of %s had returned, which stands behind" % (
                    store.name, event.tag, event.position, emitted_at[event.tag] - earliest, whose)
            acknowledged_at = history.transactions[event.tag[0]].acknowledged_at
            if acknowledged_at is not None and acknowledged_at < earliest:
                earliest, whose = acknowledged_at, event.tag
