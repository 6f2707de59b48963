/*
 * sequencer.c
 *		Gives committed events their places in the feed.
 *
 * One pass takes everything that one snapshot S sees and the last pass did not
 * (unsealed.c says how that is found), in the order of ids, and appends it to
 * the feed.  That gives the guarantee:
 *
 *	 Event b stands after every event of each transaction that had become
 *	 visible before b was emitted.
 *
 * For let a be such an event.  If a was sealed by an earlier pass, it stands
 * before b.  Else S sees a whenever it sees b, so one pass seals both, and a
 * drew its id before b did.  It takes that the pass leaves out nothing S sees:
 * a pass that stopped at some xid would break it.
 *
 * What a pass holds on to, line by line:
 *
 * - One sealer at a time: an exclusive lock on (pg_class, the pass table,
 *	 subobject 1), a lock tag nobody else takes and nobody can take from SQL.
 *	 The pass number's primary key is the backstop.
 * - The leaves are locked before S is taken.  A rewrite (ALTER TABLE, TRUNCATE)
 *	 that commits between the two would give rows a new xmin that S does not
 *	 see, and they would never be sealed.  Likewise the state is locked before
 *	 it is read, or the pass would begin with the first event again.
 * - S sees events in leaves that this session's relcache may not know yet, for
 *	 a transaction becomes visible before its invalidations are sent.  So the
 *	 leaves are compared with pg_inherits as S sees it.
 * - The transaction has no xid yet when S is taken, for a snapshot says nothing
 *	 of one's own xid.
 * - The commit flushes, whatever synchronous_commit says: an emitting
 *	 transaction may have committed without a flush, and nothing may be handed
 *	 to a handler that a crash could take back.
 *
 * The state is one row appended per pass, read back by the next one: there is
 * no copy in memory that a rollback could leave wrong.  A row updated in place
 * would grow a chain of dead versions behind any old snapshot.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/indexing.h"
#include "catalog/pg_class.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "commands/dbcommands.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"
#include "utils/tuplesort.h"
#include "utils/xid8.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/epoch.h"
#include "extension/event_id.h"
#include "extension/feed.h"
#include "extension/own_statements.h"
#include "extension/partition.h"
#include "extension/planted_fault.h"
#include "extension/table_writer.h"
#include "extension/unsealed.h"
#include "worker/sequencer.h"

PG_FUNCTION_INFO_V1(es_seal);

/* The pass table is emptied and begun anew every so many passes. */
#define PASSES_KEPT 10000

/* How often, a millisecond apart, the leaves are looked at until all are known. */
#define MAX_LOOKS 5000

/* Subobject of the pass table that stands for the right to seal. */
#define SEALER_LOCK_SUBID 1

/* What one pass works on. */
typedef struct Pass
{
	EsSealState state;			/* after the last pass */
	EsFloor		floor;			/* what this one adds */
	EsEpoch		epoch;			/* to continue, or to begin */
	EsEpochState epoch_state;
	Datum		snapshot_datum; /* the active snapshot as a pg_snapshot ... */
	EsRunning	running;		/* ... and its inside */
	Tuplesortstate *ids;		/* ids found */
	int64		nfound;
} Pass;

/* Is every leaf that the snapshot can see events in on our list? */
static bool
knows_all_leaves(const EsPartition *partitions, int count, Snapshot snapshot)
{
	Relation	rel = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		all_known = true;

	ScanKeyInit(&key, Anum_pg_inherits_inhparent, BTEqualStrategyNumber,
				F_OIDEQ, ObjectIdGetDatum(es_relation_oid(ES_EVENT)));
	scan = systable_beginscan(rel, InheritsParentIndexId, true, snapshot, 1, &key);
	while (all_known && (tuple = systable_getnext(scan)) != NULL)
	{
		Oid			relid = ((Form_pg_inherits) GETSTRUCT(tuple))->inhrelid;

		all_known = false;
		for (int i = 0; i < count && !all_known; i++)
			all_known = (partitions[i].relid == relid);
	}
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
	return all_known;
}

/*
 * Lock the leaves that may hold unsealed events, then take the snapshot and
 * make it the active one.
 */
static EsPartition *
lock_leaves_and_take_snapshot(int64 floor, int *count)
{
	/* Each time round leaves behind what it took to read the catalogs. */
	MemoryContext context = AllocSetContextCreate(CurrentMemoryContext, "eventstore leaves",
												  ALLOCSET_DEFAULT_SIZES);

	for (int i = 0; i < MAX_LOOKS; i++)
	{
		MemoryContext old = MemoryContextSwitchTo(context);
		EsPartition *partitions = es_partition_list(count);

		MemoryContextSwitchTo(old);
		for (int n = 0; n < *count; n++)
		{
			if (partitions[n].upper > floor)
				LockRelationOid(partitions[n].relid, AccessShareLock);
		}

		PushActiveSnapshot(GetLatestSnapshot());
		if (GetActiveSnapshot()->takenDuringRecovery)
			ereport(ERROR,
					(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
					 errmsg("cannot seal with a snapshot taken during recovery")));
		if (knows_all_leaves(partitions, *count, GetActiveSnapshot()))
			return partitions;

		/* The invalidation is under way; do not rely on it. */
		PopActiveSnapshot();
		InvalidateCatalogSnapshot();
		RelationCacheInvalidateEntry(es_relation_oid(ES_EVENT));
		MemoryContextReset(context);
		CHECK_FOR_INTERRUPTS();
		pg_usleep(1000);
	}

	ereport(ERROR,
			(errcode(ERRCODE_DATA_CORRUPTED),
			 errmsg("the partitions of \"%s.event\" are in disorder", ES_SCHEMA),
			 errdetail("One of them is not found by its bounds; another one may overlap it.")));
}

static bool
collect_ids(int64 first_id, int count, void *arg)
{
	Pass	   *pass = arg;

	for (int i = 0; i < count; i++)
		tuplesort_putdatum(pass->ids, Int64GetDatum(first_id + i), false);
	pass->nfound += count;
	return true;
}

/*
 * Collect every event that has no position, by id: for a store that was
 * restored or copied from another instance.  Its xids say nothing here.
 */
static void
collect_all_without_position(Pass *pass)
{
	EsStatements statements;
	Portal		portal;

	statements = es_statements_begin();

	/* Read-only, so that it runs under the active snapshot. */
	portal = SPI_cursor_open_with_args(NULL,
									   "SELECT id FROM " ES_SCHEMA ".event "
									   "EXCEPT SELECT s.first_id OPERATOR(pg_catalog.+) i "
									   "FROM " ES_INTERNAL_SCHEMA ".segment s, "
									   "pg_catalog.generate_series(0, s.event_count OPERATOR(pg_catalog.-) 1) i",
									   0, NULL, NULL, NULL, true, 0);
	do
	{
		SPI_cursor_fetch(portal, true, 10000);
		for (uint64 i = 0; i < SPI_processed; i++)
		{
			bool		isnull;

			Datum		id = SPI_getbinval(SPI_tuptable->vals[i], SPI_tuptable->tupdesc, 1, &isnull);

			collect_ids(DatumGetInt64(id), 1, pass);
		}
		SPI_freetuptable(SPI_tuptable);
		CHECK_FOR_INTERRUPTS();
	} while (SPI_processed > 0);
	SPI_cursor_close(portal);
	es_statements_end(&statements);
}

/* Append the collected ids to the feed as segments; returns the next position. */
static int64
write_segments(Pass *pass, int64 next_position)
{
	EsTableWriter *writer = es_table_writer_begin(es_relation_oid(ES_SEGMENT), Natts_segment);
	Datum		values[Natts_segment];
	bool		isnull[Natts_segment] = {0};
	int64		first_id = 0;
	int32		count = 0;
	bool		more;

	values[Anum_segment_sealed_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	tuplesort_performsort(pass->ids);
	do
	{
		Datum		datum = (Datum) 0;
		bool		id_isnull;
		int64		id;

		more = es_tuplesort_getdatum(pass->ids, &datum, &id_isnull);
		id = DatumGetInt64(datum);
		if (count > 0 && (!more || id != first_id + count || count == PG_INT32_MAX))
		{
			values[Anum_segment_first_position - 1] = Int64GetDatum(next_position);
			values[Anum_segment_first_id - 1] = Int64GetDatum(first_id);
			values[Anum_segment_event_count - 1] = Int32GetDatum(count);
			es_table_writer_put(writer, values, isnull);
			next_position += count;
			count = 0;
		}
		if (more && count++ == 0)
			first_id = id;
	} while (more);

	es_table_writer_end(writer);
	return next_position;
}

/*
 * The floors that later passes need: of each transaction running now, and of
 * those to come.  A new pair is only worth keeping when its id is in a later
 * leaf than that of the last one.
 */
static EsFloor *
next_floors(const Pass *pass, const EsPartition *partitions, int npartitions, int *count)
{
	const EsSealState *state = &pass->state;
	EsFloor    *candidates = palloc_array(EsFloor, state->nfloors + 1);
	EsFloor    *kept = palloc_array(EsFloor, state->nfloors + 1);
	FullTransactionId oldest = pass->running.nxids > 0 ? pass->running.xids[0] : pass->running.xmax;
	int			ncandidates = 0;
	int			nkept = 0;
	bool		new_leaf = (state->nfloors == 0);

	for (int i = 0; i < state->nfloors; i++)
		candidates[ncandidates++] = state->floors[i];
	for (int i = 0; i < npartitions && !new_leaf; i++)
	{
		if (partitions[i].upper <= pass->floor.id)
			new_leaf = (partitions[i].upper > candidates[ncandidates - 1].id);
	}
	if (new_leaf)
		candidates[ncandidates++] = pass->floor;

	/* A pair that the next one already replaces for the oldest xid is done with. */
	for (int i = 0; i < ncandidates; i++)
	{
		if (i + 1 < ncandidates &&
			FullTransactionIdPrecedesOrEquals(candidates[i + 1].xid, oldest))
			continue;
		kept[nkept++] = candidates[i];
	}
	pfree(candidates);
	*count = nkept;
	return kept;
}

/*
 * Empty the pass table now and then: only its last row counts, and VACUUM
 * cannot help while somebody holds an old snapshot.  If somebody is reading
 * it, another time will do.
 */
static void
rotate_pass_table(int64 pass)
{
	EsStatements statements;

	if (pass % PASSES_KEPT != 0 ||
		!ConditionalLockRelationOid(es_relation_oid(ES_PASS), AccessExclusiveLock))
		return;

	statements = es_statements_begin();
	SPI_execute("TRUNCATE " ES_INTERNAL_SCHEMA ".pass", false, 0);
	es_statements_end(&statements);
}

static void
write_pass(const Pass *pass, int64 next_position, const EsFloor *floors, int nfloors)
{
	int64		number = pass->state.pass + 1;
	Datum	   *xids = palloc_array(Datum, nfloors + 1);
	Datum	   *ids = palloc_array(Datum, nfloors + 1);
	Datum		values[Natts_pass];
	bool		isnull[Natts_pass] = {0};
	EsTableWriter *writer;

	for (int i = 0; i < nfloors; i++)
	{
		xids[i] = FullTransactionIdGetDatum(floors[i].xid);
		ids[i] = Int64GetDatum(floors[i].id);
	}
	values[Anum_pass_pass - 1] = Int64GetDatum(number);
	values[Anum_pass_snapshot - 1] = pass->snapshot_datum;
	values[Anum_pass_next_position - 1] = Int64GetDatum(next_position);
	values[Anum_pass_floor_xid - 1] =
		PointerGetDatum(construct_array(xids, nfloors, XID8OID, sizeof(FullTransactionId),
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));
	values[Anum_pass_floor_id - 1] =
		PointerGetDatum(construct_array(ids, nfloors, INT8OID, sizeof(int64),
										FLOAT8PASSBYVAL, TYPALIGN_DOUBLE));

	rotate_pass_table(number);
	writer = es_table_writer_begin(es_relation_oid(ES_PASS), Natts_pass);
	es_table_writer_put(writer, values, isnull);
	es_table_writer_end(writer);
}

/* Read where the last pass ended, and whether its history is still ours. */
static void
begin_pass(Pass *pass)
{
	EsEpoch		stored;
	bool		has_epoch;

	/* In this order; see "the floor" in unsealed.c. */
	pass->floor.id = es_event_id_last();
	pass->floor.xid = ReadNextFullTransactionId();

	LockRelationOid(es_relation_oid(ES_PASS), AccessShareLock);
	LockRelationOid(es_relation_oid(ES_EPOCH), AccessShareLock);
	PushActiveSnapshot(GetLatestSnapshot());
	es_seal_state_read(GetActiveSnapshot(), &pass->state);
	has_epoch = es_epoch_last(GetActiveSnapshot(), &stored);
	PopActiveSnapshot();

	pass->epoch_state = es_epoch_compare(has_epoch ? &stored : NULL, &pass->epoch);

	if (pass->epoch_state == ES_EPOCH_FOREIGN)
	{
		/*
		 * This pass places all there is by id.  What it does not see yet was
		 * emitted after the ids jumped; rows at or below the new base carry
		 * xids of another counter, and must not be met again when our counter
		 * reaches them.
		 */
		pass->state.nfloors = 1;
		pass->state.floors = palloc0_array(EsFloor, 1);
		pass->state.floors[0].id = pass->epoch.base;
		pass->floor.id = Max(pass->floor.id, pass->epoch.base);
	}
	else if (FullTransactionIdPrecedes(pass->floor.xid, pass->state.running.xmax))
	{
		/* The xid counter went back: pg_resetwal.  Ids have not jumped yet. */
		pass->epoch_state = ES_EPOCH_FOREIGN;
		pass->epoch.base += ES_EPOCH_SIZE;
		pass->state.nfloors = 0;
	}
}

/* Write what a pass found, and the state for the next one. */
static void
finish_pass(Pass *pass, const EsPartition *partitions, int npartitions)
{
	static const char *const reasons[] = {
		[ES_EPOCH_NONE] = "first event",
		[ES_EPOCH_NEW_TIMELINE] = "new timeline",
		[ES_EPOCH_FOREIGN] = "restored or copied",
	};
	int64		next_position = pass->state.next_position;
	int			nfloors;
	EsFloor    *floors = next_floors(pass, partitions, npartitions, &nfloors);

	if (pass->epoch_state != ES_EPOCH_CURRENT)
	{
		es_event_id_raise(pass->epoch.base);
		es_epoch_begin(&pass->epoch, next_position - 1, reasons[pass->epoch_state]);
		if (pass->epoch_state != ES_EPOCH_NONE)
		{
			ereport(LOG,
					(errmsg("eventstore begins a new epoch in database \"%s\": %s",
							get_database_name(MyDatabaseId), reasons[pass->epoch_state]),
					 errdetail("The feed's history ended at " INT64_FORMAT ", the new one begins at " INT64_FORMAT ".",
							   next_position - 1, pass->epoch.base + 1)));
			next_position = pass->epoch.base + 1;
		}
	}
	next_position = write_segments(pass, next_position);
	write_pass(pass, next_position, floors, nfloors);
	if (!es_fault_planted(ES_FAULT_UNFLUSHED_PASS))
		ForceSyncCommit();

	elog(DEBUG1, "pass " INT64_FORMAT " sealed " INT64_FORMAT " events up to position " INT64_FORMAT,
		 pass->state.pass + 1, pass->nfound, next_position - 1);
}

/*
 * Make one pass in the current transaction, which has not written yet; returns
 * the number of events that got a position.
 */
int64
es_seal_pass(void)
{
	Pass		pass = {0};
	EsPartition *partitions;
	int			npartitions;
	int64		oldest_floor;

	PreventCommandIfReadOnly("eventstore.seal()");
	PreventCommandIfParallelMode("eventstore.seal()");
	if (TransactionIdIsValid(GetTopTransactionIdIfAny()))
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("cannot seal in a transaction that has written already"),
				 errhint("Run SELECT eventstore.seal() in a transaction of its own.")));

	LockDatabaseObject(RelationRelationId, es_relation_oid(ES_PASS), SEALER_LOCK_SUBID,
					   ExclusiveLock);

	begin_pass(&pass);

	/* Where the oldest transaction that can be new begins; not floors[0], it may be older. */
	if (pass.epoch_state == ES_EPOCH_FOREIGN)
		oldest_floor = 0;		/* all there is */
	else
		oldest_floor = es_floor(&pass.state, pass.state.running.nxids > 0 ?
								pass.state.running.xids[0] : pass.state.running.xmax);
	partitions = lock_leaves_and_take_snapshot(oldest_floor, &npartitions);
	pass.snapshot_datum = DirectFunctionCall1(pg_current_snapshot, (Datum) 0);
#ifdef ES_PLANTED_FAULTS
	if (es_fault_planted(ES_FAULT_DOUBLED_XID))
		pass.snapshot_datum = es_running_with_doubles(GetActiveSnapshot());
#endif
	pass.running = es_running_from_datum(pass.snapshot_datum);
	if (es_fault_planted(ES_FAULT_FLOOR_AT_XMAX))
		pass.floor.xid = pass.running.xmax;

	pass.ids = tuplesort_begin_datum(INT8OID, Int8LessOperator, InvalidOid, false,
									 maintenance_work_mem, NULL, TUPLESORT_NONE);
	if (pass.epoch_state == ES_EPOCH_FOREIGN)
		collect_all_without_position(&pass);
	else
		es_unsealed_scan(&pass.state, &pass.running, GetActiveSnapshot(),
						 partitions, npartitions, collect_ids, &pass);

	if (pass.nfound > 0 ||
		pass.epoch_state == ES_EPOCH_NEW_TIMELINE || pass.epoch_state == ES_EPOCH_FOREIGN)
		finish_pass(&pass, partitions, npartitions);

	tuplesort_end(pass.ids);
	PopActiveSnapshot();
	return pass.nfound;
}

/*
 * seal()
 *
 * Make one pass by hand; returns the number of events that got a position.
 * Until the transaction ends nobody else can seal.
 */
Datum
es_seal(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(es_seal_pass());
}
