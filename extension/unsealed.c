/*
 * unsealed.c
 *		Finds committed events that have no place in the feed yet.
 *
 * Ids commit out of order, and xid order is not commit order, so neither "id >
 * last" nor "xid > last" finds what is new.  What is new since the last pass
 * are the events of those transactions that were running then, or not begun,
 * and are not running now:
 *
 *		(running at the last pass, and no longer running in the snapshot)
 *	  + (from the last pass's xmax up to the snapshot's, and not running in it)
 *
 * That is a set of xids, walked as ranges between those still running, on the
 * (xid) index of each leaf, so the rows of a running transaction are never
 * looked at: a bulk load in progress costs nothing.  The index has one entry
 * for each run of events (outbox.c).  Nobody waits for the
 * oldest running transaction: a long one delays its own events alone.
 *
 * The floor.  A transaction's events may lie in any leaf, but not below the id
 * that was the last one when it had not yet got its xid, since the xid is
 * assigned before the id is drawn.  So the sequencer reads the last id and
 * *then* the next xid, and keeps such pairs: transactions from that xid on have
 * their ids above that id, and older leaves need not be opened for them.  A
 * pair must not be tied to a snapshot's xmax: xids above it may have been
 * assigned, and ids drawn under them, before the last id was read.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/stratnum.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "storage/lwlock.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/xid8.h"

#include "extension/catalog.h"
#include "extension/compat.h"
#include "extension/planted_fault.h"
#include "extension/unsealed.h"

/*
 * The stored form of pg_snapshot, as xid8funcs.c defines it (it exports
 * neither the struct nor C functions to look inside).  Its xids are sorted and
 * each is there once.  That matters: between MarkAsPrepared and the end of
 * PREPARE a transaction stands in the snapshot's xip twice.
 */
typedef struct StoredSnapshot
{
	int32		varlena_size;
	uint32		nxip;
	FullTransactionId xmin;
	FullTransactionId xmax;
	FullTransactionId xip[FLEXIBLE_ARRAY_MEMBER];
} StoredSnapshot;

/* The range of xids [begin, end). */
typedef struct XidRange
{
	FullTransactionId begin;
	FullTransactionId end;
} XidRange;

/* Look inside a pg_snapshot; what is returned points into `pg_snapshot`. */
EsRunning
es_running_from_datum(Datum pg_snapshot)
{
	StoredSnapshot *stored = (StoredSnapshot *) PG_DETOAST_DATUM(pg_snapshot);
	EsRunning	running;

	running.xmax = stored->xmax;
	running.nxids = stored->nxip;
	running.xids = stored->xip;
	return running;
}

#ifdef ES_PLANTED_FAULTS
/*
 * What pg_current_snapshot() would be if it did not remove duplicates; for
 * short-lived test clusters, whose xids have no epoch yet.
 */
Datum
es_running_with_doubles(Snapshot snapshot)
{
	Size		size = offsetof(StoredSnapshot, xip) + snapshot->xcnt * sizeof(FullTransactionId);
	StoredSnapshot *stored = palloc0(size);
	TransactionId *xids = palloc_array(TransactionId, snapshot->xcnt + 1);

	memcpy(xids, snapshot->xip, snapshot->xcnt * sizeof(TransactionId));
	qsort(xids, snapshot->xcnt, sizeof(TransactionId), xidComparator);

	SET_VARSIZE(stored, size);
	stored->nxip = snapshot->xcnt;
	stored->xmin = FullTransactionIdFromEpochAndXid(0, snapshot->xmin);
	stored->xmax = FullTransactionIdFromEpochAndXid(0, snapshot->xmax);
	for (uint32 i = 0; i < snapshot->xcnt; i++)
		stored->xip[i] = FullTransactionIdFromEpochAndXid(0, xids[i]);
	return PointerGetDatum(stored);
}
#endif

/* Read the last pass's row under `snapshot`, into the current memory context. */
void
es_seal_state_read(Snapshot snapshot, EsSealState *state)
{
	Relation	rel = es_table_open(ES_PASS, AccessShareLock);
	Relation	index = es_index_open(rel, Anum_pass_pass, AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);
	HeapTuple	tuple = systable_getnext_ordered(scan, BackwardScanDirection);

	memset(state, 0, sizeof(EsSealState));
	state->running.xmax = FirstNormalFullTransactionId;
	state->next_position = 1;

	if (HeapTupleIsValid(tuple))
	{
		Datum		values[Natts_pass];
		bool		isnull[Natts_pass];
		Datum	   *xids;
		Datum	   *ids;
		int			nids;

		tuple = heap_copytuple(tuple);	/* `state` will point into it */
		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		state->pass = DatumGetInt64(values[Anum_pass_pass - 1]);
		state->running = es_running_from_datum(PointerGetDatum(PG_DETOAST_DATUM_COPY(values[Anum_pass_snapshot - 1])));
		state->next_position = DatumGetInt64(values[Anum_pass_next_position - 1]);

		deconstruct_array(DatumGetArrayTypeP(values[Anum_pass_floor_xid - 1]),
						  XID8OID, sizeof(FullTransactionId), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &xids, NULL, &state->nfloors);
		deconstruct_array(DatumGetArrayTypeP(values[Anum_pass_floor_id - 1]),
						  INT8OID, sizeof(int64), FLOAT8PASSBYVAL, TYPALIGN_DOUBLE,
						  &ids, NULL, &nids);
		if (nids != state->nfloors)
			elog(ERROR, "pass " INT64_FORMAT " has %d floor xids and %d floor ids",
				 state->pass, state->nfloors, nids);
		state->floors = palloc_array(EsFloor, nids + 1);
		for (int i = 0; i < nids; i++)
		{
			state->floors[i].xid = DatumGetFullTransactionId(xids[i]);
			state->floors[i].id = DatumGetInt64(ids[i]);
		}
	}

	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);
}

/* Events of transaction `xid` have ids above this. */
int64
es_floor(const EsSealState *state, FullTransactionId xid)
{
	for (int i = state->nfloors - 1; i >= 0; i--)
	{
		if (FullTransactionIdPrecedesOrEquals(state->floors[i].xid, xid))
			return state->floors[i].id;
	}
	return 0;
}

static int
compare_xids(const void *a, const void *b)
{
	uint64		x = U64FromFullTransactionId(*(const FullTransactionId *) a);
	uint64		y = U64FromFullTransactionId(*(const FullTransactionId *) b);

	return (x > y) - (x < y);
}

bool
es_is_running(const EsRunning *running, FullTransactionId xid)
{
	return bsearch(&xid, running->xids, running->nxids, sizeof(xid), compare_xids) != NULL;
}

/*
 * Did a transaction that has ended abort?  Only to spare us the scan of its
 * rows, so "no" where the commit log does not reach back so far.
 */
static bool
known_aborted(FullTransactionId xid)
{
	TransactionId short_xid = XidFromFullTransactionId(xid);
	bool		aborted = false;

	if (U64FromFullTransactionId(ReadNextFullTransactionId()) - U64FromFullTransactionId(xid) > PG_INT32_MAX)
		return false;

	/* As in pg_xact_status(): keep the commit log from being truncated. */
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	if (TransactionIdFollowsOrEquals(short_xid, es_oldest_clog_xid()))
		aborted = !TransactionIdDidCommit(short_xid);
	LWLockRelease(XactTruncationLock);
	return aborted;
}

/* The xids that have ended since the last pass, as ranges. */
static XidRange *
ended_ranges(const EsRunning *before, const EsRunning *now, int *count)
{
	XidRange   *ranges = palloc_array(XidRange, before->nxids + now->nxids + 1);
	FullTransactionId begin = before->xmax;
	int			n = 0;

	for (int i = 0; i < before->nxids; i++)
	{
		if (es_is_running(now, before->xids[i]) || known_aborted(before->xids[i]))
			continue;
		ranges[n].begin = ranges[n].end = before->xids[i];
		FullTransactionIdAdvance(&ranges[n++].end);
	}

	for (int i = 0; i <= now->nxids; i++)
	{
		FullTransactionId end = i < now->nxids ? now->xids[i] : now->xmax;

		if (FullTransactionIdPrecedes(end, begin))
			continue;
		if (FullTransactionIdPrecedes(begin, end))
		{
			ranges[n].begin = begin;
			ranges[n++].end = end;
		}
		begin = end;
		FullTransactionIdAdvance(&begin);
	}

	*count = n;
	return ranges;
}

/* Scan one leaf for the events of some transactions; false: the callback said stop. */
static bool
scan_leaf(const EsSealState *state, Snapshot snapshot, Relation leaf,
		  const XidRange *ranges, int nranges, EsUnsealedCallback callback, void *arg)
{
	Relation	index = es_index_open(leaf, Anum_event_xid, AccessShareLock);
	IndexScanDesc scan = index_beginscan(leaf, index,
										 es_fault_planted(ES_FAULT_ROWS_UNSEEN) ? SnapshotAny : snapshot,
										 2, 0);
	TupleTableSlot *slot = table_slot_create(leaf, NULL);
	bool		more = true;

	for (int i = 0; i < nranges && more; i++)
	{
		ScanKeyData keys[2];

		ScanKeyInit(&keys[0], 1, BTGreaterEqualStrategyNumber, F_XID8GE,
					FullTransactionIdGetDatum(ranges[i].begin));
		ScanKeyInit(&keys[1], 1, BTLessStrategyNumber, F_XID8LT,
					FullTransactionIdGetDatum(ranges[i].end));
		index_rescan(scan, keys, 2, NULL, 0);

		while (more && index_getnext_slot(scan, ForwardScanDirection, slot))
		{
			bool		isnull;
			int64		id = DatumGetInt64(slot_getattr(slot, Anum_event_id, &isnull));
			Datum		xid = slot_getattr(slot, Anum_event_xid, &isnull);
			int32		run = DatumGetInt32(slot_getattr(slot, Anum_event_run, &isnull));

			CHECK_FOR_INTERRUPTS();

			/*
			 * Below the floor lie only rows of an older epoch, that carry an
			 * xid of another counter.
			 */
			if (id > es_floor(state, DatumGetFullTransactionId(xid)))
				more = callback(id, run, arg);
		}
	}

	ExecDropSingleTupleTableSlot(slot);
	index_endscan(scan);
	index_close(index, AccessShareLock);
	return more;
}

/*
 * Call back for each run of events that `snapshot`, in which the transactions `now`
 * are running, sees and that `state` does not know of.  `partitions` must
 * contain every leaf the snapshot can see events in.
 */
void
es_unsealed_scan(const EsSealState *state, const EsRunning *now, Snapshot snapshot,
				 const EsPartition *partitions, int npartitions,
				 EsUnsealedCallback callback, void *arg)
{
	int			nranges;
	XidRange   *ranges = ended_ranges(&state->running, now, &nranges);
	int64		floor = PG_INT64_MAX;

	for (int i = 0; i < nranges; i++)
		floor = Min(floor, es_floor(state, ranges[i].begin));

	for (int i = 0; i < npartitions; i++)
	{
		Relation	leaf;
		bool		more;

		if (nranges == 0 || partitions[i].upper <= floor)
			continue;
		leaf = try_table_open(partitions[i].relid, AccessShareLock);
		if (leaf == NULL)
			continue;			/* dropped meanwhile */
		more = scan_leaf(state, snapshot, leaf, ranges, nranges, callback, arg);
		table_close(leaf, NoLock);
		if (!more)
			break;
	}
	pfree(ranges);
}

static bool
stop_at_first(int64 first_id, int count, void *arg)
{
	*(bool *) arg = true;
	return false;
}

/*
 * Does the active snapshot see events that have no position yet?  For a
 * message to the user, so it need not be exact.
 */
bool
es_unsealed_exist(Snapshot snapshot)
{
	EsSealState state;
	EsRunning	now = es_running_from_datum(DirectFunctionCall1(pg_current_snapshot, (Datum) 0));
	int			npartitions;
	EsPartition *partitions = es_partition_list(&npartitions);
	bool		exist = false;

	es_seal_state_read(snapshot, &state);
	es_unsealed_scan(&state, &now, snapshot, partitions, npartitions, stop_at_first, &exist);
	return exist;
}
