TITLE = "nothing that was rolled back is in the feed, or reached anybody"


def check(history):
    committed = {}    # by store: tags that may be seen
    for store in history.stores:
        tags = committed[store.name] = set()
        for name in store.ledger:
            if name in history.transactions:
                tags.update(e.tag for e in history.transactions[name].wanted())
        for event in store.feed:
            if event.tag is not None and event.tag not in tags:
                yield "%s: position %d: %s is of no committed transaction" % (store.name, event.position, event.tag)

    seen_anywhere = set().union(*committed.values())
    for subscriber in history.subscribers:
        for event in subscriber.handled():
            if (event["t"], event["i"]) not in seen_anywhere:
                yield "%s handled %s, of no committed transaction" % (subscriber.name, (event["t"], event["i"]))
