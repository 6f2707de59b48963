/*
 * commit_wake.c
 *		Tells the workers, once a transaction has committed, that there is work.
 *
 * The callback runs when the transaction is visible to others already
 * (CommitTransaction calls it after ProcArrayEndTransaction), so a dispatcher
 * that resets its latch and then takes a snapshot misses nothing.  A prepared
 * transaction commits in a session that never heard of it; the dispatcher's
 * poll finds it.
 */
#include "postgres.h"

#include "access/xact.h"

#include "extension/commit_wake.h"
#include "extension/shared_state.h"

/* Did the current transaction do anything the workers should look at? */
static bool wake_at_commit = false;

static void
at_transaction_end(XactEvent event, void *arg)
{
	if (!wake_at_commit)
		return;

	switch (event)
	{
		case XACT_EVENT_COMMIT:
			wake_at_commit = false;
			es_wake_dispatcher();
			break;
		case XACT_EVENT_ABORT:
		case XACT_EVENT_PREPARE:
			wake_at_commit = false;
			break;
		default:
			break;
	}
}

/* Called once per process, while the library is loaded. */
void
es_commit_wake_init(void)
{
	RegisterXactCallback(at_transaction_end, NULL);
}

/* Wake the dispatcher of this database when the current transaction commits. */
void
es_commit_wake_mark(void)
{
	wake_at_commit = true;
}
