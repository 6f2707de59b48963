/*
 * dispatcher.c
 *		One per database: seals, notifies, and keeps the house.
 *
 * It is woken by the commits of emitting transactions (commit_wake.c) and
 * polls for what has no wake-up.  The latch is reset before the pass takes its
 * snapshot, so what commits later sets it again.
 *
 * Passes clock themselves: while one commits, the next batch gathers.  Under
 * load there is a short pause before each, so that a pass finds some more
 * events and the feed has longer segments; an event that comes alone is sealed
 * at once.
 *
 * Any error ends the process, and the launcher starts another.
 */
#include "postgres.h"

#include "access/xact.h"
#include "catalog/pg_database.h"
#include "commands/dbcommands.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/lmgr.h"
#include "storage/lock.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/event_id.h"
#include "extension/partition.h"
#include "extension/settings.h"
#include "extension/shared_state.h"
#include "worker/notifier.h"
#include "worker/sequencer.h"

/* Longest pause between two passes, in milliseconds. */
#define MAX_PAUSE 5

/*
 * Milliseconds until the next look after a wake-up that led to nothing.  A
 * session wakes us before it sends its invalidations, so what subscribe() did
 * may be told a moment later than that it did something.
 */
#define SECOND_LOOK 10

PGDLLEXPORT void es_dispatcher_main(Datum arg);

/*
 * What holds whatever the configuration file or ALTER DATABASE say.  Our own
 * transactions must be able to write, must not time out, and resolve names in
 * pg_catalog; what is handed out must be durable.
 */
static void
pin_settings(void)
{
	static const char *const settings[][2] = {
		{"default_transaction_deferrable", "off"},
		{"default_transaction_isolation", "read committed"},
		{"default_transaction_read_only", "off"},
		{"idle_in_transaction_session_timeout", "0"},
		{"lock_timeout", "0"},
		{"search_path", "pg_catalog, pg_temp"},
		{"statement_timeout", "0"},
		{"synchronous_commit", "on"},
		{"timezone", "UTC"},
#if PG_VERSION_NUM >= 170000
		{"transaction_timeout", "0"},
#endif
	};

	for (int i = 0; i < lengthof(settings); i++)
		SetConfigOption(settings[i][0], settings[i][1], PGC_SUSET, PGC_S_OVERRIDE);
}

/*
 * Does somebody want to drop, rename or copy this database?  They hold a lock
 * on it that conflicts with the one each session takes when it starts, and
 * wait a few seconds for others to go.
 */
static bool
database_is_wanted(void)
{
	LOCKTAG		tag;

	SET_LOCKTAG_OBJECT(tag, InvalidOid, DatabaseRelationId, MyDatabaseId, 0);
	if (LockAcquire(&tag, RowExclusiveLock, false, true) == LOCKACQUIRE_NOT_AVAIL)
		return true;
	LockRelease(&tag, RowExclusiveLock, false);
	return false;
}

/*
 * Make the leaf that ids are drawn for, and the next one, if they are missing
 * and the parent is free: emitting must not have to.
 */
static void
create_partitions_ahead(void)
{
	int64		id = es_event_id_last() + 1;

	for (int i = 0; i < 2; i++)
	{
		EsPartition partition;

		if (!es_partition_find(id, &partition))
		{
			if (!ConditionalLockRelationOid(es_relation_oid(ES_EVENT), ShareUpdateExclusiveLock))
				return;
			es_partition_create(id);
			CommandCounterIncrement();
			if (!es_partition_find(id, &partition))
				elog(ERROR, "partition for event " INT64_FORMAT " was not made", id);
		}
		id = partition.upper;
	}
}

/* Begin a transaction; without the extension there is nothing to do here. */
static void
begin_transaction(void)
{
	StartTransactionCommand();
	if (es_extension_lock())
		return;
	es_dispatcher_set_end_state(ES_SLOT_NOT_INSTALLED);
	proc_exit(0);
}

/* What is done once per poll; ends the process when it is in the way. */
static void
poll(void)
{
	begin_transaction();
	if (database_is_wanted())
	{
		ereport(LOG,
				(errmsg("eventstore dispatcher makes way for a command on database \"%s\"",
						get_database_name(MyDatabaseId))));
		es_dispatcher_set_end_state(ES_SLOT_MADE_WAY);
		proc_exit(0);
	}
	PushActiveSnapshot(GetTransactionSnapshot());
	create_partitions_ahead();
	PopActiveSnapshot();
	CommitTransactionCommand();
	es_notifier_poll();
	pgstat_report_stat(true);
}

static int64
seal(void)
{
	int64		sealed;

	begin_transaction();
	sealed = es_seal_pass();
	CommitTransactionCommand();
	return sealed;
}

void
es_dispatcher_main(Datum arg)
{
	Oid			database;
	uint32		start;
	TimestampTz last_poll = 0;
	int			pause = 0;		/* before a pass that follows another closely */
	bool		woken = false;	/* by somebody's commit, not by the clock */
	uint32		wait_main = es_wait_event("EventstoreDispatcherMain");
	uint32		wait_gather = es_wait_event("EventstoreDispatcherGather");

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, SIG_IGN);	/* there is no statement to cancel */

	memcpy(&database, MyBgworkerEntry->bgw_extra, sizeof(Oid));
	memcpy(&start, MyBgworkerEntry->bgw_extra + sizeof(Oid), sizeof(uint32));
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnectionByOid(database, InvalidOid, 0);
	if (!es_dispatcher_attach(DatumGetInt32(arg), database, start))
		proc_exit(0);
	pgstat_report_appname("eventstore dispatcher");
	pin_settings();
	es_notifier_init();

	for (;;)
	{
		TimestampTz now;
		int64		sealed;
		bool		more;

		/* For pg_stat_activity, and as the start of our transactions. */
		SetCurrentStatementStartTimestamp();
		now = GetCurrentStatementStartTimestamp();

		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		/* A clock that was set back must not keep us from polling. */
		if (last_poll > now ||
			TimestampDifferenceExceeds(last_poll, now, es_poll_interval))
		{
			poll();
			last_poll = now;
		}

		pgstat_report_activity(STATE_RUNNING, "sealing events and notifying subscribers");
		sealed = seal();
		more = es_notifier_run();
		pgstat_report_activity(STATE_IDLE, NULL);
		pgstat_report_stat(false);

		if (!more)
		{
			TimestampTz wait_start = GetCurrentTimestamp();

			woken = (WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
							   woken && sealed == 0 ? SECOND_LOOK : es_poll_interval,
							   wait_main) & WL_LATCH_SET) != 0;
			if (sealed == 0 || TimestampDifferenceExceeds(wait_start, GetCurrentTimestamp(), MAX_PAUSE))
				pause = 0;
			else
				pause = Min(pause + 1, MAX_PAUSE);
			if (pause > 0)
				(void) WaitLatch(NULL, WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
								 pause, wait_gather);
		}
	}
}
