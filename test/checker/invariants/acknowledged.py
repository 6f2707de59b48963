TITLE = "what the server acknowledged is there; what became of unanswered commits is known"


def check(history):
    stores = {store.port: store for store in history.stores}
    for t in history.transactions.values():
        if t.outcome == "ok" and not t.is_async:
            if t.port in stores and t.name not in stores[t.port].ledger:
                yield "transaction %s was acknowledged and is gone" % t.name
        if t.outcome == "fail":
            for store in history.stores:
                if t.name in store.ledger:
                    yield "%s: transaction %s was rolled back and is there" % (store.name, t.name)

    # pg_xact_status() and the ledger must agree.  "committed" without a row is
    # possible after a crash: an xid that never got to disk was used again.
    for store in history.stores:
        for name, status in store.status.items():
            if name in store.ledger and status != "committed":
                yield "%s: transaction %s is there, but pg_xact_status() says %s" % (store.name, name, status)
