TITLE = "one position, one event; positions without gaps in each epoch"


def check(history):
    for store in history.stores:
        by_id = {}
        by_tag = {}
        bases = {first for first, _ in store.epochs}
        previous = 0
        for event in store.feed:
            if event.tag is None:
                yield "%s: position %d stands for event %d, which is not there" % (
                    store.name, event.position, event.id)
            if event.position != previous + 1 and not (event.position in bases and event.position > previous):
                yield "%s: position %d comes after %d" % (store.name, event.position, previous)
            if event.id in by_id:
                yield "%s: event %d has positions %d and %d" % (
                    store.name, event.id, by_id[event.id], event.position)
            if event.tag is not None and event.tag in by_tag:
                yield "%s: %s has positions %d and %d" % (
                    store.name, event.tag, by_tag[event.tag], event.position)
            previous = event.position
            by_id[event.id] = by_tag[event.tag] = event.position
