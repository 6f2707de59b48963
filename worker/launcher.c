/*
 * launcher.c
 *		Sees to it that each database with the extension has a dispatcher.
 *
 * One process per cluster, connected to the shared catalogs only.  Which
 * databases have the extension cannot be seen from there, so it starts a
 * dispatcher in each database it does not know yet; where the extension is
 * missing, that one ends at once and says so in its slot.  From then on
 * CREATE EXTENSION and the first emit ask for a dispatcher, at commit
 * (es_wake_dispatcher).
 *
 * A dispatcher that ended with an error is started again, but not more often
 * than every RESTART_INTERVAL.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_database.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "postmaster/bgworker.h"
#include "postmaster/interrupt.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "tcop/tcopprot.h"
#include "utils/guc.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/compat.h"
#include "extension/shared_state.h"

/* Milliseconds between two starts of a dispatcher that fails. */
#define RESTART_INTERVAL 5000

/* Milliseconds between two looks for new databases, if nothing else happens. */
#define DATABASE_SCAN_INTERVAL 10000

/* How many databases are looked into at the same time. */
#define MAX_PROBES 2

typedef struct Database
{
	Oid			oid;
	bool		exists;			/* seen by the last scan */
	bool		probed;			/* a dispatcher has looked into it */
	bool		runs;			/* a dispatcher was started and has not ended */
	int			slot;
	BackgroundWorkerHandle *handle; /* NULL: an earlier launcher started it */
	TimestampTz last_start;
} Database;

static List *databases = NIL;	/* of Database *, in TopMemoryContext */

PGDLLEXPORT void es_launcher_main(Datum arg);

static Database *
find_database(Oid oid)
{
	ListCell   *lc;

	foreach(lc, databases)
	{
		if (((Database *) lfirst(lc))->oid == oid)
			return lfirst(lc);
	}
	return NULL;
}

static Database *
add_database(Oid oid)
{
	MemoryContext old = MemoryContextSwitchTo(TopMemoryContext);
	Database   *database = palloc0(sizeof(Database));

	database->oid = oid;
	database->slot = -1;
	databases = lappend(databases, database);
	MemoryContextSwitchTo(old);
	return database;
}

/*
 * At the start, take over what an earlier launcher left: dispatchers that run
 * go on.  One that was asked for but has not come yet will find that its slot
 * is not meant for it any more.
 */
static void
adopt_dispatchers(void)
{
	for (int i = 0; i < es_slot_count(); i++)
	{
		EsSlotInfo	info = es_slot_adopt(i);
		Database   *database;

		if (info.state == ES_SLOT_FREE)
			continue;
		database = add_database(info.database);
		database->slot = i;
		database->probed = true;
		database->runs = (info.state == ES_SLOT_RUNNING);
	}
}

/* Bring `databases` up to date with pg_database. */
static void
scan_databases(void)
{
	Relation	rel;
	TableScanDesc scan;
	HeapTuple	tuple;
	ListCell   *lc;

	StartTransactionCommand();
	(void) GetTransactionSnapshot();

	foreach(lc, databases)
		((Database *) lfirst(lc))->exists = false;

	rel = table_open(DatabaseRelationId, AccessShareLock);
	scan = table_beginscan_catalog(rel, 0, NULL);
	while (HeapTupleIsValid(tuple = heap_getnext(scan, ForwardScanDirection)))
	{
		Form_pg_database form = (Form_pg_database) GETSTRUCT(tuple);
		Database   *database = find_database(form->oid);

		/* A worker in a template would stand in the way of CREATE DATABASE. */
		if (!form->datallowconn || form->datistemplate)
			continue;
		if (database == NULL)
			database = add_database(form->oid);
		database->exists = true;
	}
	table_endscan(scan);
	table_close(rel, AccessShareLock);
	CommitTransactionCommand();

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		if (!database->exists && !database->runs)
		{
			if (database->slot >= 0)
				es_slot_set_state(database->slot, ES_SLOT_FREE);
			databases = foreach_delete_current(databases, lc);
			pfree(database);
		}
	}
}

/* Has the dispatcher ended?  Then take note of how. */
static void
check_dispatcher(Database *database)
{
	pid_t		pid;
	EsSlotInfo	info;

	if (!database->runs)
		return;
	if (database->handle == NULL)
	{
		if (es_slot_get(database->slot).state == ES_SLOT_RUNNING)
			return;
	}
	else
	{
		if (GetBackgroundWorkerPid(database->handle, &pid) != BGWH_STOPPED)
			return;
		pfree(database->handle);
		database->handle = NULL;
	}
	database->runs = false;
	database->probed = true;

	if (es_slot_free_unless_asked_for(database->slot))
	{
		database->slot = -1;
		return;
	}
	info = es_slot_get(database->slot);
	if (info.state == ES_SLOT_MADE_WAY)
		database->last_start = GetCurrentTimestamp();
	es_slot_set_state(database->slot, ES_SLOT_ENDED);
}

/* Start a database's dispatcher; false if the server has no place for it. */
static bool
start_dispatcher(Database *database, TimestampTz now)
{
	BackgroundWorker worker = {0};
	MemoryContext old;
	uint32		start;

	database->slot = es_slot_start(database->oid, &start);
	if (database->slot < 0)
		return false;
	database->last_start = now;

	worker.bgw_flags = BGWORKER_SHMEM_ACCESS | BGWORKER_BACKEND_DATABASE_CONNECTION;
	worker.bgw_start_time = BgWorkerStart_RecoveryFinished;
	worker.bgw_restart_time = BGW_NEVER_RESTART;
	worker.bgw_notify_pid = MyProcPid;
	worker.bgw_main_arg = Int32GetDatum(database->slot);
	memcpy(worker.bgw_extra, &database->oid, sizeof(Oid));
	memcpy(worker.bgw_extra + sizeof(Oid), &start, sizeof(uint32));
	strlcpy(worker.bgw_library_name, "eventstore", BGW_MAXLEN);
	strlcpy(worker.bgw_function_name, "es_dispatcher_main", BGW_MAXLEN);
	snprintf(worker.bgw_name, BGW_MAXLEN, "eventstore dispatcher for database %u", database->oid);
	strlcpy(worker.bgw_type, "eventstore dispatcher", BGW_MAXLEN);

	old = MemoryContextSwitchTo(TopMemoryContext);
	database->runs = RegisterDynamicBackgroundWorker(&worker, &database->handle);
	MemoryContextSwitchTo(old);

	if (!database->runs)
		es_slot_set_state(database->slot, ES_SLOT_ENDED);
	return database->runs;
}

/*
 * Start what shall run and does not.  Returns the milliseconds after which
 * something that waits now will be due.
 */
static long
start_dispatchers(void)
{
	static bool complained = false;
	TimestampTz now = GetCurrentTimestamp();
	long		wait = DATABASE_SCAN_INTERVAL;
	int			probes = 0;
	bool		failed = false;
	ListCell   *lc;

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);

		if (database->runs && !database->probed &&
			es_slot_get(database->slot).state == ES_SLOT_RUNNING)
			database->probed = true;
		if (database->runs && !database->probed)
			probes++;
	}

	foreach(lc, databases)
	{
		Database   *database = lfirst(lc);
		bool		wanted = !database->probed || database->slot >= 0;
		long		since_start;

		if (database->runs || !database->exists || !wanted)
			continue;
		if (!database->probed && probes >= MAX_PROBES)
			continue;			/* a probe that ends sets our latch */

		/* A clock that was set back must not keep us from starting. */
		since_start = TimestampDifferenceMilliseconds(database->last_start, now);
		if (database->last_start != 0 && database->last_start <= now &&
			since_start < RESTART_INTERVAL)
		{
			wait = Min(wait, RESTART_INTERVAL - since_start);
			continue;
		}

		if (!start_dispatcher(database, now))
		{
			failed = true;
			wait = Min(wait, RESTART_INTERVAL);
		}
		else if (!database->probed)
			probes++;
	}

	if (failed && !complained)
		ereport(LOG,
				(errcode(ERRCODE_CONFIGURATION_LIMIT_EXCEEDED),
				 errmsg("could not start an eventstore dispatcher: out of background worker slots"),
				 errhint("Increase max_worker_processes. Until then some databases are not served.")));
	complained = failed;
	return wait;
}

/* Take note of what sessions asked for. */
static void
accept_requests(void)
{
	for (int i = 0; i < es_slot_count(); i++)
	{
		EsSlotInfo	info = es_slot_get(i);
		Database   *database;

		if (info.state != ES_SLOT_WANTED)
			continue;
		database = find_database(info.database);
		if (database == NULL)
			es_slot_set_state(i, ES_SLOT_FREE); /* dropped, or a template */
		else if (!database->runs)
		{
			database->slot = i;
			database->last_start = 0;
		}
	}
}

void
es_launcher_main(Datum arg)
{
	uint32		wait_event = es_wait_event("EventstoreLauncherMain");

	pqsignal(SIGHUP, SignalHandlerForConfigReload);
	pqsignal(SIGTERM, die);
	pqsignal(SIGINT, SIG_IGN);
	BackgroundWorkerUnblockSignals();
	BackgroundWorkerInitializeConnection(NULL, NULL, 0);
	pgstat_report_appname("eventstore launcher");

	if (!es_launcher_attach())
		proc_exit(0);
	ereport(DEBUG1, (errmsg_internal("eventstore launcher started")));
	adopt_dispatchers();

	for (;;)
	{
		ListCell   *lc;
		long		wait;

		SetCurrentStatementStartTimestamp();
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		if (ConfigReloadPending)
		{
			ConfigReloadPending = false;
			ProcessConfigFile(PGC_SIGHUP);
		}

		foreach(lc, databases)
			check_dispatcher(lfirst(lc));
		scan_databases();
		accept_requests();
		wait = start_dispatchers();

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH,
						 wait, wait_event);
	}
}
