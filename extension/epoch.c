/*
 * epoch.c
 *		Unbroken histories of the store.
 *
 * A promotion may lose the tail of what the old primary had committed, and a
 * restore or a copy continues a history that goes on elsewhere too.  Whoever
 * saw the lost tail must never take a new event for an old one.  So the store
 * then begins a new epoch: ids and positions jump to the next multiple of
 * ES_EPOCH_SIZE, and no id or position is issued twice.
 *
 * The sequencer writes the epoch's row (sequencer.c).  But a transaction can
 * emit before the sequencer has come round, so the emitting side makes its own
 * ids jump.  It needs no row for that: where ids must begin follows from the
 * last stored row and the server's identity alone, so that however many
 * sessions, promotions and crashes there are in between, all come to the same
 * result, and raising the sequence twice does nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "miscadmin.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/inval.h"
#include "utils/rel.h"
#include "utils/snapmgr.h"
#include "utils/timestamp.h"

#include "extension/catalog.h"
#include "extension/epoch.h"
#include "extension/event_id.h"
#include "extension/table_writer.h"

/*
 * Did this session see that its ids are above the epoch's base?  A session
 * cannot outlive a change of identity once it could write; the epoch table's
 * relcache entry is invalidated when a row is added.
 */
static bool ids_checked = false;
static bool epoch_changed;		/* heard of a change since the check began */
static Oid	checked_relid = InvalidOid;

static void
forget_check(Datum arg, Oid relid)
{
	if (relid == InvalidOid || relid == checked_relid)
	{
		ids_checked = false;
		epoch_changed = true;
	}
}

/* Called once per process, while the library is loaded. */
void
es_epoch_init(void)
{
	CacheRegisterRelcacheCallback(forget_check, (Datum) 0);
}

/* Read the newest epoch under `snapshot`; false when there is none yet. */
bool
es_epoch_last(Snapshot snapshot, EsEpoch *epoch)
{
	Relation	rel = es_table_open(ES_EPOCH, AccessShareLock);
	Relation	index = es_index_open(rel, Anum_epoch_first_position, AccessShareLock);
	SysScanDesc scan = systable_beginscan_ordered(rel, index, snapshot, 0, NULL);
	HeapTuple	tuple = systable_getnext_ordered(scan, BackwardScanDirection);

	if (HeapTupleIsValid(tuple))
	{
		Datum		values[Natts_epoch];
		bool		isnull[Natts_epoch];

		heap_deform_tuple(tuple, RelationGetDescr(rel), values, isnull);
		epoch->base = DatumGetInt64(values[Anum_epoch_first_position - 1]) - 1;
		epoch->system_identifier = (uint64) DatumGetInt64(values[Anum_epoch_system_identifier - 1]);
		epoch->timeline = (TimeLineID) DatumGetInt32(values[Anum_epoch_timeline - 1]);
		epoch->database = DatumGetObjectId(values[Anum_epoch_database - 1]);
	}

	systable_endscan_ordered(scan);
	index_close(index, AccessShareLock);
	table_close(rel, AccessShareLock);

	return HeapTupleIsValid(tuple);
}

/*
 * Compare the stored identity (NULL: none) with that of the running server,
 * and fill in the epoch that new events belong to.  Not for use in recovery.
 *
 * A new timeline moves the base by as many epochs as the timeline advanced:
 * two promotions in a row, the first of them never recorded, must not land on
 * the same base.
 */
EsEpochState
es_epoch_compare(const EsEpoch *stored, EsEpoch *current)
{
	current->base = 0;
	current->system_identifier = GetSystemIdentifier();
	current->timeline = GetWALInsertionTimeLine();
	current->database = MyDatabaseId;

	if (stored == NULL)
		return ES_EPOCH_NONE;

	current->base = stored->base;
	if (stored->system_identifier != current->system_identifier ||
		stored->database != current->database ||
		stored->timeline > current->timeline)
	{
		current->base += ES_EPOCH_SIZE;
		return ES_EPOCH_FOREIGN;
	}
	if (stored->timeline < current->timeline)
	{
		current->base += (int64) (current->timeline - stored->timeline) * ES_EPOCH_SIZE;
		return ES_EPOCH_NEW_TIMELINE;
	}
	return ES_EPOCH_CURRENT;
}

/* Before the first id of a session is drawn: let ids begin where they must. */
void
es_epoch_before_emit(void)
{
	Snapshot	snapshot;
	EsEpoch		stored;
	EsEpoch		current;

	if (likely(ids_checked))
		return;

	/* Set first: an invalidation from here on must find it set. */
	checked_relid = es_relation_oid(ES_EPOCH);
	epoch_changed = false;

	/* First the lock: a table rewritten after the snapshot looks empty. */
	LockRelationOid(checked_relid, AccessShareLock);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	if (es_epoch_last(snapshot, &stored) &&
		es_epoch_compare(&stored, &current) != ES_EPOCH_CURRENT)
		es_event_id_raise(current.base);
	UnregisterSnapshot(snapshot);

	/* Not before: an error on the way, such as a lock timeout, checked nothing. */
	ids_checked = !epoch_changed;
}

/*
 * Write the row of a new epoch, in the current transaction.  `previous_head`
 * is where the history before it ends; 0 for the first.
 */
void
es_epoch_begin(const EsEpoch *epoch, int64 previous_head, const char *reason)
{
	EsTableWriter *writer = es_table_writer_begin(es_relation_oid(ES_EPOCH), Natts_epoch);
	Datum		values[Natts_epoch];
	bool		isnull[Natts_epoch] = {0};

	values[Anum_epoch_first_position - 1] = Int64GetDatum(epoch->base + 1);
	values[Anum_epoch_previous_head - 1] = Int64GetDatum(previous_head);
	values[Anum_epoch_system_identifier - 1] = Int64GetDatum((int64) epoch->system_identifier);
	values[Anum_epoch_timeline - 1] = Int32GetDatum((int32) epoch->timeline);
	values[Anum_epoch_database - 1] = ObjectIdGetDatum(epoch->database);
	values[Anum_epoch_reason - 1] = CStringGetTextDatum(reason);
	values[Anum_epoch_started_at - 1] = TimestampTzGetDatum(GetCurrentTimestamp());
	es_table_writer_put(writer, values, isnull);
	es_table_writer_end(writer);

	CacheInvalidateRelcacheByRelid(es_relation_oid(ES_EPOCH));
}
