TITLE = "clients met no error but those they are told to expect"

# The connection or the server goes, or a standby cancels a query: try again.
RETRY = ("08", "57", "40001")


def check(history):
    rewritten = any(f["kind"] == "lock storm" for f in history.faults)
    for subscriber in history.subscribers:
        for record in subscriber.records:
            if record["op"] != "error" or record["code"].startswith(RETRY):
                continue
            # A rewriting ALTER TABLE is not MVCC-safe: for an older snapshot the rows are gone.
            if record["code"] == "XX001" and rewritten:
                continue
            yield "%s: %s: %s" % (subscriber.name, record["code"], record["message"].splitlines()[0])
