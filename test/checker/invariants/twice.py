TITLE = "nobody handled an event twice"


def check(history):
    for subscriber in history.subscribers:
        ids = set()
        tags = set()
        positions = {}
        for event in subscriber.handled():
            tag = (event["t"], event["i"])
            if event["id"] in ids or tag in tags:
                yield "%s handled %s twice" % (subscriber.name, tag)
            if positions.setdefault(event["position"], tag) != tag:
                yield "%s handled %s and %s at position %d" % (
                    subscriber.name, positions[event["position"]], tag, event["position"])
            ids.add(event["id"])
            tags.add(tag)
